"""Accuracy: the share of samples whose class has the largest score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.metrics import Accuracy

METRIC = Accuracy()


def metric(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
    """Share of right answers, in [0, 1].

    Args:
        y_true: (n, 1) or (n,), class numbers.
        y_pred: (n, classes), scores; the first of equals counts.
    """
    return float(np.mean(np.argmax(y_pred, axis=1) == np.ravel(y_true)))
