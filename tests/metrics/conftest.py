from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from polyclinic.metrics import Counts, Estimate, Metric, add_counts, join_rows

Pool = Callable[[Metric, NDArray, NDArray, NDArray], Estimate]


def pooled_estimate(metric: Metric, y_true: NDArray, y_pred: NDArray, node: NDArray, batch_size: int = 7) -> Estimate:
    """As a federation does it: batches become rows at each node, the nodes' counts are added in node order."""
    counts: list[Counts] = []
    for number in range(int(node.max(initial=0)) + 1):
        own = np.flatnonzero(node == number)
        batches = [own[start : start + batch_size] for start in range(0, len(own), batch_size)]
        counts.append(metric.counts(join_rows([metric.rows(y_true[rows], y_pred[rows]) for rows in batches])))
    return metric.estimate(functools.reduce(add_counts, counts, {}))


@pytest.fixture(scope="session")
def pooled() -> Pool:
    return pooled_estimate
