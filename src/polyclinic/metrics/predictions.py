"""What targets and predictions must look like, checked once a batch.

- One score a sample, ``(n,)`` or ``(n, 1)``: a sample is truly positive where its target is above 0 (so grades
  0 to 4 count as positive from 1), and predicted positive where its score is above 0.5.
- One score a class, ``(n, C)`` with C >= 2: the predicted class is the largest score, the first one of equals.
  Targets are class numbers 0 to C-1, ``(n,)`` or ``(n, 1)``.

Messages say shapes and how many values are at fault, never the values: these are patients' data.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from polyclinic.errors import EvaluationError
from polyclinic.metrics.metric import Array

PROBABILITIES = "define predict() so that it returns probabilities"
ROUNDING = 1e-6  # a probability computed in float32 may miss [0, 1] by this much
SUM_ROUNDING = 1e-3  # and those of one sample may miss the sum of 1 by this much, also in float16


def finite(values: ArrayLike, what: str) -> Array:
    """The values as an array of numbers, none of them nan or infinite."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise EvaluationError(
            f"{what} are of type {array.dtype}, not numbers",
            to_do="return plain numeric arrays from the dataset and from predict()",
        )
    if bad := int(array.size - np.isfinite(array).sum()):
        raise EvaluationError(
            f"{bad} of {array.size} {what} are NaN or infinite",
            to_do="look for missing values in the data, or for a training that diverged",
        )
    return array


def column(values: Array, what: str) -> Array:
    """(n,) or (n, 1) as (n,)."""
    if values.ndim == 2 and values.shape[1] == 1:
        return values[:, 0]
    if values.ndim != 1:
        raise EvaluationError(
            f"{what} have shape {values.shape}, where one number a sample is needed: (n,) or (n, 1)",
            to_do="for outputs with several values a sample, as in segmentation, use SampleMean",
        )
    return values


def pair(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Array, Array]:
    """Targets and predictions as finite arrays with the same number of samples."""
    true, pred = finite(y_true, "targets"), finite(y_pred, "predictions")
    if true.ndim == 0 or pred.ndim == 0 or len(true) != len(pred):
        raise EvaluationError(
            f"targets have shape {true.shape} and predictions {pred.shape}: not one prediction a sample",
            to_do="let predict() return one row for each sample of the batch",
        )
    return true, pred


def num_classes(y_pred: Array) -> int:
    """2 for one score a sample, else the number of columns."""
    return y_pred.shape[1] if y_pred.ndim == 2 and y_pred.shape[1] > 1 else 2


def in_unit_interval(values: Array) -> NDArray[np.float64]:
    """The values in float64, cut to [0, 1] if they miss it by no more than rounding."""
    outside = int(((values < -ROUNDING) | (values > 1 + ROUNDING)).sum())
    if outside:
        raise EvaluationError(f"{outside} of {values.size} predicted scores lie outside [0, 1]", to_do=PROBABILITIES)
    return np.clip(values.astype(np.float64), 0.0, 1.0)


def class_numbers(y_true: Array, classes: int) -> NDArray[np.int64]:
    """Targets (n,) or (n, 1) as class numbers."""
    true = column(y_true, "targets")
    wrong = int(((true != np.floor(true)) | (true < 0) | (true >= classes)).sum())
    if wrong:
        raise EvaluationError(
            f"{wrong} of {true.size} targets are not class numbers from 0 to {classes - 1}, "
            f"while the predictions have {classes} columns",
            to_do="give the model one output a class, or turn the targets into class numbers in training_data()",
        )
    return true.astype(np.int64)


def true_and_predicted(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """True classes (n,), predicted classes (n,) and the number of classes."""
    true, pred = pair(y_true, y_pred)
    classes = num_classes(pred)
    if pred.ndim == 2 and pred.shape[1] > 1:
        return class_numbers(true, classes), np.argmax(pred, axis=1).astype(np.int64), classes
    scores = in_unit_interval(column(pred, "predictions"))
    return (column(true, "targets") > 0).astype(np.int64), (scores > 0.5).astype(np.int64), classes


def class_probabilities(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """True classes (n,) and a probability for each class (n, C); one score a sample gives (1 - p, p)."""
    true, pred = pair(y_true, y_pred)
    if pred.ndim == 2 and pred.shape[1] > 1:
        probabilities = in_unit_interval(pred)
        check_sums(probabilities)
        return class_numbers(true, pred.shape[1]), probabilities
    score = in_unit_interval(column(pred, "predictions"))
    return (column(true, "targets") > 0).astype(np.int64), np.stack([1 - score, score], axis=1)


def positive_and_score(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Who is positive (n,) and a score (n,) that ranks them; any range for one column, else probabilities."""
    true, pred = pair(y_true, y_pred)
    if num_classes(pred) == 2 and pred.ndim == 2 and pred.shape[1] == 2:
        # Column 1 alone ranks the samples only if the two columns sum to 1, so raw scores are refused.
        probabilities = in_unit_interval(pred)
        check_sums(probabilities)
        return class_numbers(true, 2) == 1, probabilities[:, 1]
    return column(true, "targets") > 0, column(pred, "predictions").astype(np.float64)


def check_sums(probabilities: NDArray[np.float64]) -> None:
    wrong = int((np.abs(probabilities.sum(axis=1) - 1) > SUM_ROUNDING).sum())
    if wrong:
        raise EvaluationError(
            f"the predicted scores of {wrong} of {len(probabilities)} samples do not sum to 1 over the classes",
            to_do=PROBABILITIES,
        )
