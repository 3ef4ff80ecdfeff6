"""Soft Dice score, mean over samples and both channels.

    dice = sum p t / ( (sum p + sum t) / 2 + 1e-7 ),   1 where both sums are 0

over the spatial axes. The background is a channel too, as in FLamby, so that a prediction of nothing scores well
above 0. Dice, Measures of the amount of ecologic association between species, Ecology 1945.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.metrics import SampleMean


def dice_of_samples(y_true: NDArray[Any], y_pred: NDArray[Any]) -> NDArray[np.float64]:
    """(n,) Dice of each sample, in [0, 1].

    Args:
        y_true: (n, channels, x, y, z) one-hot.
        y_pred: the same shape, probabilities.
    """
    axes = tuple(range(2, y_true.ndim))
    # In float64: a sum of 100,000 voxels in float32 loses the fourth digit.
    overlap = np.sum(y_pred * y_true, axis=axes, dtype=np.float64)
    half = 0.5 * (np.sum(y_pred, axis=axes, dtype=np.float64) + np.sum(y_true, axis=axes, dtype=np.float64))
    dice = np.where(half == 0, 1.0, overlap / (half + 1e-7))
    mean: NDArray[np.float64] = dice.mean(axis=1)
    return mean


def metric(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
    """Mean soft Dice over samples and channels, in [0, 1]; shapes as in `dice_of_samples`."""
    return float(dice_of_samples(y_true, y_pred).mean())


METRIC = SampleMean("dice", dice_of_samples, low=0.0, high=1.0)
