"""Balanced accuracy: the mean of the classes' sensitivities, over the classes that occur among the targets.

Only center 0 has all eight classes among its test images, so that centers' values are means over different classes.
The pooled value is that of all centers' confusion matrices added up.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.metrics import get_metric

METRIC = get_metric("balanced_accuracy")


def metric(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
    """Balanced accuracy in [0, 1].

    Args:
        y_true: (n,) or (n, 1), class numbers.
        y_pred: (n, 8), scores; the largest is the predicted class.
    """
    true, predicted = np.ravel(y_true), y_pred.argmax(axis=1)
    return float(np.mean([np.mean(predicted[true == c] == c) for c in np.unique(true)]))
