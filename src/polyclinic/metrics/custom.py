"""Any function ``metric(y_true, y_pred) -> float`` as a metric, for those whose counts nobody knows.

Nothing adds up here: pooled is the mean of the nodes' values, weighted by their samples, and ``exact`` is False. What
leaves a node is its value, its number of samples and the variance of its value, which a bootstrap over the node's rows
gives (Efron, Annals of Statistics 7, 1979, 1-26), seeded by a hash of the rows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import numpy as np

from polyclinic.errors import EvaluationError
from polyclinic.metrics.intervals import NO_INTERVAL, Z, around, generator
from polyclinic.metrics.metric import NO_ESTIMATE, Array, Counts, Estimate, Metric, Rows

CUSTOM_COUNTS = frozenset({"num_samples", "weight", "weighted_value", "weighted_variance"})


class CustomMetric(Metric):
    """A metric that is a function of all targets and predictions of a node.

    Args:
        name: the metric's name.
        function: from targets and predictions (n, ...) of all samples of a node to one number; may return nan.
        higher_is_better: False for errors and losses.
        draws: bootstrap samples for the interval; the function is called this often. 0: no interval.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Array, Array], float],
        *,
        higher_is_better: bool = True,
        draws: int = 200,
    ) -> None:
        self.name = name
        self.higher_is_better = higher_is_better
        self._function = function
        self._draws = draws

    def rows(self, y_true: Array, y_pred: Array) -> Rows:
        """``y_true`` and ``y_pred`` as they are."""
        true, pred = np.asarray(y_true), np.asarray(y_pred)
        if true.ndim == 0 or pred.ndim == 0 or len(true) != len(pred):
            raise EvaluationError(
                f"targets have shape {true.shape} and predictions {pred.shape}: not one prediction a sample",
                to_do="let predict() return one row for each sample of the batch",
            )
        return {"y_true": true, "y_pred": pred}

    def value(self, rows: Rows) -> float:
        """The function's value over all rows.

        Raises:
            EvaluationError: the function failed, or returned no number.
        """
        if not rows or len(rows["y_true"]) == 0:
            return math.nan
        try:
            return float(self._function(rows["y_true"], rows["y_pred"]))
        except Exception as err:
            # The cause's own text may hold patients' values; it stays in the node's log, as the cause.
            raise EvaluationError(
                f"the function of metric {self.name!r} failed with {type(err).__name__}",
                to_do="call the function on arrays of this shape by hand: "
                f"{rows['y_true'].shape} and {rows['y_pred'].shape}; it must return one number",
            ) from err

    def counts(self, rows: Rows) -> Counts:
        """From all rows of a node: ``num_samples`` () int64; ``weight``, the samples of nodes that have a value,
        ``weighted_value`` and ``weighted_variance`` (the weight squared times the variance), () float64."""
        if not rows:
            return {}
        num_samples = len(rows["y_true"])
        value = self.value(rows)
        weight = 0.0 if math.isnan(value) else float(num_samples)
        variance = self._variance(rows) if weight else 0.0
        return {
            "num_samples": np.asarray(num_samples, dtype=np.int64),
            "weight": np.asarray(weight),
            "weighted_value": np.asarray(weight * value if weight else 0.0),
            "weighted_variance": np.asarray(weight**2 * variance),
        }

    def estimate(self, counts: Counts) -> Estimate:
        if not counts:
            return NO_ESTIMATE
        num_samples, weight = int(counts["num_samples"]), float(counts["weight"])
        if weight == 0:
            return Estimate(math.nan, math.nan, math.nan, num_samples, exact=False)
        value = float(counts["weighted_value"]) / weight
        half = Z * math.sqrt(float(counts["weighted_variance"])) / weight
        interval = NO_INTERVAL if math.isnan(half) else around(value, (value - half, value + half))
        return Estimate(value, *interval, num_samples, exact=False)

    def _variance(self, rows: Rows) -> float:
        """Variance of the value over samples drawn with replacement; nan if most of them have no value."""
        true, pred = rows["y_true"], rows["y_pred"]
        if len(true) < 2 or self._draws < 2:
            return math.nan
        random = generator(true, pred)
        values = np.full(self._draws, math.nan)
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            for draw in range(self._draws):
                chosen = random.integers(len(true), size=len(true))
                try:
                    values[draw] = self._function(true[chosen], pred[chosen])
                except Exception:  # a draw may lack a class; it then counts as without value
                    continue
        finite = values[np.isfinite(values)]
        return float(finite.var(ddof=1)) if len(finite) > self._draws / 2 else math.nan
