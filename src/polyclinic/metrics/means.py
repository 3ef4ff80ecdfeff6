"""Metrics that are means over the samples: pooled exactly from sums, with Student's t interval.

With the sums n, Σ x and Σ x², the mean is Σ x / n and its variance s² / n, where s² = (Σ x² - (Σ x)² / n) / (n - 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import EvaluationError
from polyclinic.metrics.intervals import around, student_t
from polyclinic.metrics.metric import NO_ESTIMATE, Array, Counts, Estimate, Metric, Rows
from polyclinic.metrics.predictions import class_probabilities, column, finite, pair

PerSample = Callable[[Array, Array], Array]

MEAN_COUNTS = frozenset({"num_samples", "num_rows", "sum", "sum_of_squares"})


class SampleMean(Metric):
    """The mean of a value that each sample has by itself, for example its Dice coefficient.

    Args:
        name: the metric's name.
        per_sample: from the targets and predictions of one batch (n, ...) to one value a sample (n,).
        higher_is_better: False for errors and losses.
        low: the smallest possible value, where the interval is cut.
        high: the largest possible value.
    """

    def __init__(
        self,
        name: str,
        per_sample: PerSample,
        *,
        higher_is_better: bool = True,
        low: float = -math.inf,
        high: float = math.inf,
    ) -> None:
        self.name = name
        self.higher_is_better = higher_is_better
        self._per_sample = per_sample
        self._low = low
        self._high = high

    def rows(self, y_true: Array, y_pred: Array) -> Rows:
        """``value`` (n,) and ``weight`` (n,), the samples that a row stands for: 1."""
        values = finite(self._per_sample(y_true, y_pred), f"values of {self.name}")
        if values.shape != (len(y_true),):
            raise EvaluationError(
                f"{self.name} returned shape {values.shape} for a batch of {len(y_true)} samples",
                to_do=f"return one number a sample, of shape ({len(y_true)},)",
            )
        return {"value": values.astype(np.float64), "weight": np.ones(len(values), dtype=np.int64)}

    def value(self, rows: Rows) -> float:
        if not rows or not rows["weight"].sum():
            return math.nan
        return float(np.average(rows["value"], weights=rows["weight"]))

    def counts(self, rows: Rows) -> Counts:
        """``num_samples`` and ``num_rows`` () int64, ``sum`` and ``sum_of_squares`` () float64."""
        if not rows:
            return {}
        value, weight = rows["value"], rows["weight"]
        return {
            "num_samples": np.asarray(weight.sum(), dtype=np.int64),
            "num_rows": np.asarray(len(value), dtype=np.int64),
            "sum": np.asarray((weight * value).sum(), dtype=np.float64),
            "sum_of_squares": np.asarray((weight * value**2).sum(), dtype=np.float64),
        }

    def estimate(self, counts: Counts) -> Estimate:
        if not counts:
            return NO_ESTIMATE
        samples, rows = int(counts["num_samples"]), int(counts["num_rows"])
        if samples == 0:
            return NO_ESTIMATE
        value = float(counts["sum"]) / samples
        # Rounding may leave a tiny negative number where all values are the same.
        squares = max(float(counts["sum_of_squares"]) - float(counts["sum"]) * value, 0.0)
        interval = student_t(value, squares / max(rows - 1, 1), samples, rows)
        return Estimate(value, *around(value, interval, low=self._low, high=self._high), samples)


class MeanLoss(SampleMean):
    """The mean of losses that the training plan has computed, for each sample or for a whole batch.

    A batch of b samples with mean loss L is one row of weight b. The variance of L is s² / b, so Σ b (L - mean)² over
    the number of batches less one still estimates s², and the interval is right, if less sharp.
    """

    def __init__(self) -> None:
        super().__init__("loss", _given, higher_is_better=False)

    def rows(self, y_true: Array, y_pred: Array) -> Rows:
        """``y_pred`` holds losses: (n,) of the samples, or () the mean of the batch. ``y_true`` (n, ...)."""
        losses = finite(y_pred, "losses")
        if losses.ndim != 0:
            return super().rows(y_true, losses)
        if len(y_true) == 0:
            return super().rows(y_true, np.empty(0))
        return {"value": losses[None].astype(np.float64), "weight": np.array([len(y_true)], dtype=np.int64)}


class RootMeanSquaredError(SampleMean):
    """The square root of the mean squared error, and of the limits of its interval."""

    def __init__(self) -> None:
        super().__init__("rmse", squared_error, higher_is_better=False, low=0.0)

    def value(self, rows: Rows) -> float:
        return math.sqrt(super().value(rows))

    def estimate(self, counts: Counts) -> Estimate:
        mse = super().estimate(counts)
        return Estimate(math.sqrt(mse.value), math.sqrt(mse.low), math.sqrt(mse.high), mse.num_samples)


def _given(y_true: Array, losses: Array) -> Array:  # noqa: ARG001  # the plan has already compared them
    return losses


def log_loss(y_true: Array, y_pred: Array) -> NDArray[np.float64]:
    """-log p of the true class, p cut to [eps, 1 - eps] by the predictions' own precision, as scikit-learn does."""
    true, probabilities = class_probabilities(y_true, y_pred)
    dtype = np.asarray(y_pred).dtype
    eps = np.finfo(dtype if dtype.kind == "f" else np.float64).eps
    of_true = np.take_along_axis(probabilities, true[:, None], axis=1)[:, 0]
    return -np.log(np.clip(of_true, eps, 1 - eps))


def brier(y_true: Array, y_pred: Array) -> NDArray[np.float64]:
    """Two classes: (p - y)² of the positive class, in [0, 1]; more: Σ_c (p_c - y_c)², in [0, 2] (Brier 1950)."""
    true, probabilities = class_probabilities(y_true, y_pred)
    classes = probabilities.shape[1]
    squares = (probabilities - np.eye(classes)[true]) ** 2
    return squares[:, 1] if classes == 2 else squares.sum(axis=1)


def target_and_prediction(y_true: Array, y_pred: Array) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Numbers to be compared by a regression metric, each (n,) float64."""
    true, pred = pair(y_true, y_pred)
    return column(true, "targets").astype(np.float64), column(pred, "predictions").astype(np.float64)


def absolute_error(y_true: Array, y_pred: Array) -> NDArray[np.float64]:
    true, pred = target_and_prediction(y_true, y_pred)
    return np.abs(true - pred)


def squared_error(y_true: Array, y_pred: Array) -> NDArray[np.float64]:
    true, pred = target_and_prediction(y_true, y_pred)
    return (true - pred) ** 2


MEAN_METRICS: tuple[Metric, ...] = (
    SampleMean("log_loss", log_loss, higher_is_better=False, low=0.0),
    SampleMean("brier", brier, higher_is_better=False, low=0.0, high=2.0),
    SampleMean("mae", absolute_error, higher_is_better=False, low=0.0),
    SampleMean("mse", squared_error, higher_is_better=False, low=0.0),
    RootMeanSquaredError(),
    MeanLoss(),
)
