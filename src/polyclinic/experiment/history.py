"""All figures of an experiment, as one table: round, node, split, metric, value, num_samples, seconds, bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyclinic.experiment.record import POOLED, HistoryRow
from polyclinic.experiment.tables import render_table

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = tuple(HistoryRow.model_fields)


class History:
    """Rows in order of time. Printing it, or showing it in a notebook, gives a table."""

    def __init__(self, rows: Iterable[HistoryRow] = ()) -> None:
        self._rows = tuple(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[HistoryRow]:
        return iter(self._rows)

    def tail(self, n: int = 10) -> History:
        """The last ``n`` rows."""
        return History(self._rows[-n:] if n > 0 else ())

    def to_pandas(self) -> pd.DataFrame:
        """A data frame with the columns named above."""
        import pandas as pd

        return pd.DataFrame([row.model_dump() for row in self._rows], columns=list(COLUMNS))

    def series(self, metric: str, split: str) -> dict[str, tuple[list[int], list[float]]]:
        """Rounds and values of one metric, by node."""
        found: dict[str, tuple[list[int], list[float]]] = {}
        for row in self._rows:
            if row.metric == metric and row.split == split:
                rounds, values = found.setdefault(row.node, ([], []))
                rounds.append(row.round)
                values.append(row.value)
        return found

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws each metric over the rounds, a curve a node, the pooled one in black.

        Args:
            path: where to save the picture (PNG, PDF or SVG, by its ending); None: do not save.

        Returns:
            The matplotlib figure, which a notebook shows.
        """
        from matplotlib.figure import Figure

        panels = list(dict.fromkeys((row.split, row.metric) for row in self._rows))
        figure = Figure(figsize=(5.2 * max(len(panels), 1), 3.8), layout="constrained")
        axes = figure.subplots(1, max(len(panels), 1), squeeze=False)[0]
        for axis, (split, metric) in zip(axes, panels, strict=False):
            series = self.series(metric, split)
            for node, (rounds, values) in series.items():
                style = {"color": "black", "linewidth": 2} if node == POOLED else {"linewidth": 1.3}
                axis.plot(rounds, values, label=node, marker="." if len(rounds) < 2 else None, **style)
            axis.set(xlabel="round", title=f"{split} {metric.replace('_', ' ')}")
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
            if len(series) <= 12:
                axis.legend(frameon=False, fontsize="small")
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def __str__(self) -> str:
        return render_table(COLUMNS, [_cells(row) for row in self._rows])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{name}</th>" for name in COLUMNS)
        shown = self._rows[-200:]
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in _cells(row)) + "</tr>" for row in shown)
        note = f"<caption>the last {len(shown)} of {len(self)} rows</caption>" if len(shown) < len(self) else ""
        return f"<table>{note}<tr>{head}</tr>{body}</table>"


def _cells(row: HistoryRow) -> list[str]:
    return [f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.model_dump().values()]
