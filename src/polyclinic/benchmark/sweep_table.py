"""The results of a sweep as a table of text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from polyclinic.benchmark.results import MEAN, POOLED, ResultRow
from polyclinic.experiment.tables import render_table


def summary_table(rows: Sequence[ResultRow], cells: Collection[str]) -> Iterator[str]:
    """One table for each dataset: a method a line, mean and standard deviation over its seeds.

    Args:
        rows: of a results file.
        cells: ids; rows of other cells are left out.
    """
    wanted = set(cells)
    ends = [row for row in rows if row.final and row.cell in wanted]
    for dataset in dict.fromkeys(row.dataset for row in ends):
        own = [row for row in ends if row.dataset == dataset]
        metric = next((row.metric for row in own if row.metric), "")
        cells_of = dict.fromkeys(row.method for row in own)
        lines = [[method, *_figures([row for row in own if row.method == method])] for method in cells_of]
        head = ["method", "seeds", f"{metric}, mean of centers", f"{metric}, pooled", "seconds", "not done"]
        yield render_table(head, lines, title=dataset)


def _figures(rows: Sequence[ResultRow]) -> list[str]:
    found = {test: [row.value for row in rows if row.test == test] for test in (MEAN, POOLED)}
    seconds = {row.cell: row.seconds for row in rows}
    missed = [f"{row.status}, seed {row.seed}" for row in rows if row.status != "done"]
    return [
        str(len(found[MEAN])),
        *(_mean(values) for values in found.values()),
        f"{sum(seconds.values()) / len(seconds):.2f}",
        "; ".join(missed),
    ]


def _mean(values: Sequence[float]) -> str:
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"
