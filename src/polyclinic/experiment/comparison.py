"""Experiments side by side: a table of what each came to, and their curves in one picture."""

from __future__ import annotations

import base64
import io
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from polyclinic.errors import ConfigError
from polyclinic.experiment.line_styles import COLOURS, LINES
from polyclinic.experiment.models import best_round
from polyclinic.experiment.record import POOLED, HistoryRow, RoundRecord
from polyclinic.experiment.run_folder import RunFolder
from polyclinic.experiment.tables import render_table

if TYPE_CHECKING:
    import pandas as pd

LOSS = "train loss"
_MOST_PANELS = 3


@runtime_checkable
class Recorded(Protocol):
    """What is compared of an experiment."""

    @property
    def name(self) -> str: ...
    @property
    def records(self) -> list[RoundRecord]: ...
    def info(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class ComparedRun:
    """One experiment.

    Attributes:
        label: what it is called in the table and the picture.
        aggregator: its name.
        records: of the complete rounds; the first, of round 0, is the initial model's.
    """

    label: str
    aggregator: str
    records: tuple[RoundRecord, ...]

    def curve(self, figure: str) -> list[tuple[int, float]]:
        """(round, value) of "train loss", the mean over the samples of all nodes, or of a test metric, pooled."""
        points = [(record.round, _figures(record).get(figure)) for record in self.records]
        return [(number, value) for number, value in points if value is not None]

    @property
    def figures(self) -> list[str]:
        """The names of the figures there are."""
        return list(dict.fromkeys(name for record in self.records for name in _figures(record)))

    @property
    def score(self) -> str:
        """The figure that the best round is chosen by: the first test metric, or the loss if no round was tested."""
        return next((name for name in self.figures if name != LOSS), LOSS)

    def row(self) -> dict[str, Any]:
        """What it came to; None where there is nothing."""
        curve, loss = self.curve(self.score), self.curve(LOSS)
        best = best_round(self.records)
        return {
            "run": self.label,
            "aggregator": self.aggregator,
            "rounds": self.records[-1].round,
            "loss": loss[-1][1] if loss else None,
            "score": self.score if curve else None,
            "last": curve[-1][1] if curve else None,
            "best": dict(curve).get(best),
            "best_round": best if curve else None,
            "seconds": sum(record.seconds for record in self.records),
            "bytes": sum(row.bytes for record in self.records for row in record.rows),
            **{name: self.curve(name)[-1][1] for name in self.figures if name != LOSS},
        }


class Comparison:
    """Runs side by side. Printing it gives a table; in a notebook it shows the table and the picture.

    The columns: ``run``, ``aggregator``, ``rounds`` done, training ``loss`` after the last one, the ``score`` (the
    first test metric on all nodes' data together, or the training loss if no round was tested) after the ``last``
    tested round and in the ``best`` one, ``seconds`` and ``bytes`` (to and from all nodes) of all rounds, and each
    test metric after the last tested round.
    """

    def __init__(self, runs: Sequence[ComparedRun]) -> None:
        self.runs = tuple(runs)

    def to_pandas(self) -> pd.DataFrame:
        """One row a run."""
        import pandas as pd

        return pd.DataFrame([run.row() for run in self.runs], columns=self._columns())

    def plot(self, path: str | Path | None = None) -> Any:
        """Draws training loss and pooled test metrics over the rounds, a curve a run; at most three panels.

        Args:
            path: where to save the picture (PNG, PDF or SVG, by its ending); None: do not save.

        Returns:
            The matplotlib figure, which a notebook shows.
        """
        from matplotlib.figure import Figure

        found = list(dict.fromkeys(name for run in self.runs for name in run.figures))[:_MOST_PANELS] or [LOSS]
        figure = Figure(figsize=(5.2 * len(found), 3.8 + 0.2 * math.ceil(len(self.runs) / 4)), layout="constrained")
        axes = figure.subplots(1, len(found), squeeze=False)[0]
        for axis, name in zip(axes, found, strict=True):
            for number, run in enumerate(self.runs):
                turn, colour = divmod(number, len(COLOURS))
                look = {"color": COLOURS[colour], "linestyle": LINES[turn % len(LINES)], "linewidth": 1.6}
                curve = run.curve(name)
                marker = "." if len(curve) < 2 else None
                axis.plot([r for r, _ in curve], [v for _, v in curve], label=run.label, marker=marker, **look)
            axis.set(xlabel="round", title=name.replace("_", " "))
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 4), frameon=False)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def __len__(self) -> int:
        return len(self.runs)

    def __str__(self) -> str:
        return render_table(self._columns(), self._cells())

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(name)}</th>" for name in self._columns())
        body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in self._cells())
        picture = io.BytesIO()
        self.plot().savefig(picture, format="png", dpi=100)
        data = base64.b64encode(picture.getvalue()).decode()
        alt = escape(f"Curves of {', '.join(run.label for run in self.runs)} over the rounds", quote=True)
        return f'<table><tr>{head}</tr>{body}</table><img alt="{alt}" src="data:image/png;base64,{data}">'

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(name for run in self.runs for name in run.row()))

    def _cells(self) -> list[list[str]]:
        rows = [run.row() for run in self.runs]
        return [[_cell(row.get(name)) for name in self._columns()] for row in rows]


def compare(experiments: Sequence[object], labels: Sequence[str] | None = None) -> Comparison:
    """Puts experiments side by side.

    Args:
        experiments: experiments, or run folders, of which only the records are read.
        labels: what to call them, one each; default: their names, numbered where two are the same.

    Raises:
        ConfigError: none was given, something is no experiment, or labels are not one each.
        RunFolderError: a folder without an experiment.
    """
    if not experiments:
        raise ConfigError("there is nothing to compare", to_do="give experiments or run folders: compare(a, b)")
    runs = [_run(experiment) for experiment in experiments]
    if labels is None:
        labels = _told_apart([run.label for run in runs])
    elif isinstance(labels, str) or len(labels) != len(runs) or len(set(labels)) != len(runs):
        raise ConfigError(
            f"labels must be {len(runs)} different words, one for each experiment, not {labels!r}",
            to_do='give a list: labels=["one", "other"]',
        )
    return Comparison([ComparedRun(str(x), r.aggregator, r.records) for x, r in zip(labels, runs, strict=True)])


def _run(experiment: object) -> ComparedRun:
    if isinstance(experiment, str | Path):
        folder = RunFolder(Path(experiment))
        spec = folder.read_spec()
        return ComparedRun(spec.name, spec.aggregator, tuple(folder.read_records()))
    if isinstance(experiment, Recorded) and not isinstance(experiment, type):
        return ComparedRun(experiment.name, experiment.info()["aggregator"], tuple(experiment.records))
    what = f"the class {experiment.__name__}" if isinstance(experiment, type) else f"a {type(experiment).__name__}"
    raise ConfigError(
        f"{what} is no experiment",
        to_do="give experiments or run folders, each as an argument of its own: compare(a, b)",
    )


def _told_apart(names: Sequence[str]) -> list[str]:
    """Names, with a number where several are the same."""
    counts, seen = Counter(names), Counter[str]()
    told = []
    for name in names:
        seen[name] += 1
        told.append(f"{name} {seen[name]}" if counts[name] > 1 else name)
    return told


def _figures(record: RoundRecord) -> dict[str, float]:
    found = {f"test {row.metric}": row.value for row in record.rows if row.split == "test" and row.node == POOLED}
    losses = [row for row in record.rows if row.split == "train" and row.metric == "loss"]
    return ({LOSS: _mean(losses)} if losses else {}) | found


def _mean(rows: Sequence[HistoryRow]) -> float:
    return sum(row.value * row.num_samples for row in rows) / max(sum(row.num_samples for row in rows), 1)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
