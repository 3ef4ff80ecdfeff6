"""Mean of two Dice scores, kidney with tumour and tumour alone; mean over cases.

    dice(a, b) = 2 |a and b| / (|a| + |b|),   1 where both are empty
    score of a case = ( dice(label > 0) + dice(label = 2) ) / 2

It is the score of the KiTS19 challenge (Heller et al., Medical Image Analysis 2021, 67:101821).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import EvaluationError
from polyclinic.metrics import SampleMean

if TYPE_CHECKING:
    from torch import Tensor


def dice_of_cases(y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[np.float64]:
    """(n,) score of each case, in [0, 1].

    Args:
        y_true: (n, 1, z, y, x) or (n, z, y, x) labels 0 background, 1 kidney, 2 tumour.
        y_pred: labels of the same kind; or (n, 3, z, y, x) scores, of which the highest wins.

    Raises:
        EvaluationError: arrays of other shapes.
    """
    true, pred = _labels(y_true), _labels(y_pred)
    if true.shape != pred.shape:
        raise EvaluationError(
            f"targets have shape {y_true.shape} and predictions {y_pred.shape}",
            to_do="let predict() return (n, 3, z, y, x) scores or (n, 1, z, y, x) labels of the target's size",
        )
    return (_dice(true > 0, pred > 0) + _dice(true == 2, pred == 2)) / 2


def metric(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
    """Mean score over cases, in [0, 1]; shapes as in `dice_of_cases`."""
    return float(dice_of_cases(np.asarray(y_true), np.asarray(y_pred)).mean())


def flamby_metric(predictions: Tensor, gt: Tensor) -> float:
    """FLamby's score of a batch, with its two defects, to compare with its numbers.

    The intersections are taken between all pairs of cases in the batch, so that the score may exceed 1; and two empty
    masks score 0.

    Args:
        predictions: (n, z, y, x) labels.
        gt: (n, 1, z, y, x) labels.
    """
    scores = []
    for pred, true in ((predictions > 0, gt > 0), (predictions == 2, gt == 2)):
        # (n, z, y, x) times (n, 1, z, y, x) is (n, n, z, y, x).
        common = (pred * true).sum().item()
        scores.append(2 * common / (pred.sum().item() + true.sum().item() + 1e-5))
    return sum(scores) / 2


def _labels(values: NDArray[Any]) -> NDArray[Any]:
    """(n, z, y, x) labels of scores or labels."""
    if values.ndim == 5 and values.shape[1] > 1:
        chosen: NDArray[Any] = values.argmax(axis=1)
        return chosen
    return values[:, 0] if values.ndim == 5 else values


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> NDArray[np.float64]:
    axes = tuple(range(1, a.ndim))
    common = np.count_nonzero(a & b, axis=axes)
    both = np.count_nonzero(a, axis=axes) + np.count_nonzero(b, axis=axes)
    return np.where(both == 0, 1.0, 2 * common / np.maximum(both, 1))


METRIC = SampleMean("dice", dice_of_cases, low=0.0, high=1.0)
