"""Metrics of the confusion matrix, which adds up, so that pooled values are exact.

``m[t, p]`` is the number of samples of true class t that were predicted as class p, (C, C). Formulas take
``(..., C, C)`` and return ``(...)``; a quotient without a denominator is nan. Two classes: 0 negative, 1 positive.

Names follow scikit-learn and the clinic (sensitivity is recall). Where scikit-learn returns 0 with a warning for an
undefined value (precision when nobody was predicted positive, say), this is nan.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import EvaluationError
from polyclinic.metrics.intervals import (
    NO_INTERVAL,
    Interval,
    around,
    mean_of_proportions,
    posterior_draws,
    wilson,
)
from polyclinic.metrics.metric import NO_ESTIMATE, Array, Counts, Estimate, Metric, Rows
from polyclinic.metrics.predictions import true_and_predicted

Matrix = NDArray[np.float64]
Formula = Callable[[Matrix], NDArray[np.float64]]
Parts = Callable[[Matrix], tuple[NDArray[np.float64], NDArray[np.float64]]]

MULTICLASS = "accuracy, balanced_accuracy, f1_macro, mcc, cohen_kappa, log_loss, brier"


class ConfusionMetric(Metric):
    """A function of the confusion matrix.

    Args:
        name: the metric's name.
        formula: from matrices (..., C, C) to values (...).
        interval: from one matrix (C, C) to the 95 % interval.
        low: the smallest possible value; the largest is 1.
        binary: True if the metric is about two classes only.
    """

    def __init__(
        self,
        name: str,
        formula: Formula,
        interval: Callable[[Matrix], Interval],
        *,
        low: float = 0.0,
        binary: bool = False,
    ) -> None:
        self.name = name
        self._formula = formula
        self._interval = interval
        self._low = low
        self._binary = binary

    def rows(self, y_true: Array, y_pred: Array) -> Rows:
        """One column a class, (n, C) bool, so that the number of classes is known also without samples."""
        true, predicted, classes = true_and_predicted(y_true, y_pred)
        if self._binary:
            check_two_classes(self.name, classes)
        one_hot = np.eye(classes, dtype=np.bool_)
        return {"true": one_hot[true], "predicted": one_hot[predicted]}

    def counts(self, rows: Rows) -> Counts:
        """``confusion``: (C, C) int64."""
        if not rows:
            return {}
        classes = rows["true"].shape[1]
        cells = rows["true"].argmax(axis=1) * classes + rows["predicted"].argmax(axis=1)
        return {"confusion": np.bincount(cells, minlength=classes**2).reshape(classes, classes).astype(np.int64)}

    def value(self, rows: Rows) -> float:
        return self._value(self.counts(rows)["confusion"]) if rows else math.nan

    def estimate(self, counts: Counts) -> Estimate:
        if not counts:
            return NO_ESTIMATE
        matrix = counts["confusion"]
        value = self._value(matrix)
        interval = NO_INTERVAL if math.isnan(value) else self._interval(matrix.astype(np.float64))
        return Estimate(value, *around(value, interval, low=self._low, high=1.0), int(matrix.sum()))

    def _value(self, matrix: Array) -> float:
        return float(self._formula(matrix.astype(np.float64)))


class Accuracy(ConfusionMetric):
    """The share of samples whose class was predicted."""

    def __init__(self) -> None:
        super().__init__("accuracy", *proportion(accuracy_parts))


def check_two_classes(name: str, classes: int) -> None:
    if classes != 2:
        raise EvaluationError(
            f"{name} is for two classes; the predictions have {classes}",
            to_do=f"ask for one of {MULTICLASS}, or let predict() return the probability of one class",
        )


def ratio(part: Array, whole: Array) -> NDArray[np.float64]:
    """part / whole, nan where the whole is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole == 0, np.nan, np.divide(part, whole))


# Partials of module-level functions instead of closures, so that metrics can be pickled.
def proportion(parts: Parts) -> tuple[Formula, Callable[[Matrix], Interval]]:
    """The formula and Wilson's interval of hits / trials."""
    return partial(_ratio_of, parts), partial(_wilson_of, parts)


def _ratio_of(parts: Parts, m: Matrix) -> NDArray[np.float64]:
    return ratio(*parts(m))


def _wilson_of(parts: Parts, m: Matrix) -> Interval:
    hits, trials = parts(m)
    return wilson(float(ratio(hits, trials)), float(trials))


def drawn(formula: Formula) -> tuple[Formula, Callable[[Matrix], Interval]]:
    """The formula and its interval by draws, for those without a simpler one."""
    return formula, partial(_drawn_interval, formula)


def _drawn_interval(formula: Formula, m: Matrix) -> Interval:
    return posterior_draws(m.astype(np.int64), formula)


def accuracy_parts(m: Matrix) -> tuple[Matrix, Matrix]:
    return np.trace(m, axis1=-2, axis2=-1), m.sum(axis=(-2, -1))


def sensitivity_parts(m: Matrix) -> tuple[Matrix, Matrix]:
    """True positives over all diseased."""
    return m[..., 1, 1], m[..., 1, :].sum(axis=-1)


def specificity_parts(m: Matrix) -> tuple[Matrix, Matrix]:
    """True negatives over all healthy."""
    return m[..., 0, 0], m[..., 0, :].sum(axis=-1)


def precision_parts(m: Matrix) -> tuple[Matrix, Matrix]:
    """True positives over all predicted positive."""
    return m[..., 1, 1], m[..., :, 1].sum(axis=-1)


def balanced_accuracy(m: Matrix) -> NDArray[np.float64]:
    """The mean of the classes' sensitivities, over the classes that occur among the targets."""
    trials = m.sum(axis=-1)
    recalls = ratio(np.diagonal(m, axis1=-2, axis2=-1), trials)
    return ratio(np.where(trials > 0, recalls, 0.0).sum(axis=-1), (trials > 0).sum(axis=-1))


def balanced_accuracy_interval(m: Matrix) -> Interval:
    trials = m.sum(axis=1)
    return mean_of_proportions(np.diagonal(m)[trials > 0], trials[trials > 0])


def f1(m: Matrix) -> NDArray[np.float64]:
    """2 TP / (2 TP + FP + FN)."""
    hits = m[..., 1, 1]
    return ratio(2 * hits, 2 * hits + m[..., 0, 1] + m[..., 1, 0])


def f1_interval(m: Matrix) -> Interval:
    """F1 = 2 J / (1 + J) grows with J = TP / (TP + FP + FN), which is a proportion: its limits are mapped."""
    trials = float(m.sum() - m[0, 0])
    low, high = wilson(float(m[1, 1]) / trials, trials)
    return 2 * low / (1 + low), 2 * high / (1 + high)


def f1_macro(m: Matrix) -> NDArray[np.float64]:
    """The mean of the classes' F1, over the classes that occur among targets or predictions."""
    hits = np.diagonal(m, axis1=-2, axis2=-1)
    whole = m.sum(axis=-1) + m.sum(axis=-2)
    return ratio(np.where(whole > 0, ratio(2 * hits, whole), 0.0).sum(axis=-1), (whole > 0).sum(axis=-1))


def mcc(m: Matrix) -> NDArray[np.float64]:
    """Matthews' correlation of targets and predictions, for C classes (Gorodkin 2004); nan for one true class.

    A model that always predicts the same class has 0, the value that scikit-learn gives.
    """
    total, true, predicted = m.sum(axis=(-2, -1)), m.sum(axis=-1), m.sum(axis=-2)
    covariance = np.trace(m, axis1=-2, axis2=-1) * total - (true * predicted).sum(axis=-1)
    true_spread = total**2 - (true**2).sum(axis=-1)
    predicted_spread = total**2 - (predicted**2).sum(axis=-1)
    constant = np.where(true_spread == 0, np.nan, 0.0)
    return np.where(
        true_spread * predicted_spread == 0,
        constant,
        ratio(covariance, np.sqrt(true_spread * predicted_spread)),
    )


def cohen_kappa(m: Matrix) -> NDArray[np.float64]:
    """Agreement beyond chance (Cohen 1960): (p_o - p_e) / (1 - p_e)."""
    total = m.sum(axis=(-2, -1))
    chance = (m.sum(axis=-1) * m.sum(axis=-2)).sum(axis=-1)
    return ratio(np.trace(m, axis1=-2, axis2=-1) * total - chance, total**2 - chance)


CONFUSION_METRICS: tuple[Metric, ...] = (
    Accuracy(),
    ConfusionMetric("balanced_accuracy", balanced_accuracy, balanced_accuracy_interval),
    ConfusionMetric("sensitivity", *proportion(sensitivity_parts), binary=True),
    ConfusionMetric("recall", *proportion(sensitivity_parts), binary=True),
    ConfusionMetric("specificity", *proportion(specificity_parts), binary=True),
    ConfusionMetric("precision", *proportion(precision_parts), binary=True),
    ConfusionMetric("f1", f1, f1_interval, binary=True),
    ConfusionMetric("f1_macro", *drawn(f1_macro)),
    ConfusionMetric("mcc", *drawn(mcc), low=-1.0),
    ConfusionMetric("cohen_kappa", *drawn(cohen_kappa), low=-1.0),
)
