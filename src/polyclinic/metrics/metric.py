"""What a metric is: rows at the node, counts that add up, and a function of counts.

::

    batch ──rows()──► rows ──value()──► the node's exact value
                       └──counts()──► counts ──add_counts()──► pooled counts ──estimate()──► Estimate

Rows never leave a node. Counts do: they are arrays whose size does not depend on the number of samples, and
the counts of two data sets together are the sums of their counts. A node without any batch has rows ``{}`` and
counts ``{}``; both are understood everywhere here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import AggregationError, EvaluationError

Array = NDArray[Any]
Rows = Mapping[str, Array]  # column name -> (n, ...) values, the same n for all
Counts = dict[str, Array]  # name -> float64 or int64 values that add up over batches and nodes


@dataclass(frozen=True, eq=False)
class Estimate:
    """A metric's value with its 95 % interval. Plain numbers; ``nan`` where the data do not define them.

    Attributes:
        value: the metric.
        low: lower end of the 95 % interval.
        high: upper end of it.
        num_samples: the samples that it was computed from.
        error_bound: how far ``value`` may lie from the exact one, because scores were counted in bins; 0: exact.
        exact: False where nothing adds up and ``value`` is an average of the nodes' values.
    """

    value: float
    low: float
    high: float
    num_samples: int
    error_bound: float = 0.0
    exact: bool = True

    def __post_init__(self) -> None:
        for name in ("value", "low", "high", "error_bound"):
            number = float(getattr(self, name))
            object.__setattr__(self, name, math.nan if math.isnan(number) else number)
        object.__setattr__(self, "num_samples", int(self.num_samples))

    def __eq__(self, other: object) -> bool:
        """The same figures; an undefined one (nan) is the same as another undefined one."""
        # Tuples look at identity first, and all our nan are one object. The dataclasses of Python 3.13 do not.
        return isinstance(other, Estimate) and self._figures() == other._figures()

    def __hash__(self) -> int:
        return hash(self._figures())

    def _figures(self) -> tuple[float, ...]:
        return (self.value, self.low, self.high, self.num_samples, self.error_bound, self.exact)


NO_ESTIMATE = Estimate(math.nan, math.nan, math.nan, 0)


class Metric(ABC):
    """One metric. It has no state: the same object serves every node and every thread.

    Attributes:
        name: as the researcher writes it, for example ``"accuracy"``.
        higher_is_better: False for errors and losses.
    """

    name: str
    higher_is_better: bool = True

    @abstractmethod
    def rows(self, y_true: Array, y_pred: Array) -> Rows:
        """What this metric keeps of one batch of targets and predictions, a row a sample.

        Raises:
            EvaluationError: shapes, ranges or values that this metric cannot use.
        """

    @abstractmethod
    def value(self, rows: Rows) -> float:
        """The exact value over all rows of a node; nan where it is not defined."""

    @abstractmethod
    def counts(self, rows: Rows) -> Counts:
        """What may leave the node: arrays that add up over nodes."""

    @abstractmethod
    def estimate(self, counts: Counts) -> Estimate:
        """Value, interval and error bound from counts, of one node or summed over many."""

    def node_estimate(self, rows: Rows, counts: Counts | None = None) -> Estimate:
        """A node's own figures: the exact value from the rows, the interval from the counts.

        Args:
            rows: all rows of the node.
            counts: ``counts(rows)``, if they are there already.
        """
        estimate = self.estimate(self.counts(rows) if counts is None else counts)
        return replace(estimate, value=self.value(rows), error_bound=0.0, exact=True)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def join_rows(batches: Sequence[Rows]) -> Rows:
    """The rows of several batches, one after the other; ``{}`` for no batch.

    Raises:
        EvaluationError: the batches differ in columns or in shape, for example in the number of classes.
    """
    if not batches:
        return {}
    names = batches[0].keys()
    for batch in batches:
        same_shape = batch.keys() == names and all(
            batch[name].shape[1:] == batches[0][name].shape[1:] for name in names
        )
        if not same_shape:
            raise EvaluationError(
                f"batches of one test set gave rows of different kinds: {_shapes(batches[0])} and {_shapes(batch)}",
                to_do="let predict() return the same number of columns for every batch",
            )
    return {name: np.concatenate([batch[name] for batch in batches]) for name in names}


def add_counts(a: Mapping[str, Array], b: Mapping[str, Array]) -> Counts:
    """The counts of two sets of samples together; ``{}`` stands for no samples.

    Raises:
        AggregationError: the two are not counts of the same metric with the same settings.
    """
    if not a or not b:
        return dict(a or b)
    if odd := sorted(a.keys() ^ b.keys()):
        raise AggregationError(
            f"counts that do not belong together: {', '.join(map(repr, odd))} on one side only",
            to_do="add counts of one metric only; nodes must run the same version of Polyclinic",
        )
    for name in a:
        if np.shape(a[name]) != np.shape(b[name]):
            raise AggregationError(
                f"counts {name!r} have shapes {np.shape(a[name])} and {np.shape(b[name])}",
                to_do="every node must evaluate the same model, with the same classes and the same bins",
            )
    # asarray, because the sum of two 0-dim arrays is a scalar in numpy.
    return {name: np.asarray(a[name] + b[name]) for name in a}


def _shapes(rows: Rows) -> dict[str, tuple[int, ...]]:
    return {name: column.shape[1:] for name, column in rows.items()}
