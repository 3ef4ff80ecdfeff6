"""Accuracy at a probability of 0.5, which itself counts as "no disease".

ROC-AUC is not the metric of this dataset, because the Swiss training part has one class only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.metrics import Accuracy

METRIC = Accuracy()


def metric(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
    """Share of right answers, in [0, 1].

    Args:
        y_true: (n, 1) or (n,), 0 or 1.
        y_pred: the same shape, probabilities.
    """
    return float(np.mean((y_pred > 0.5) == (y_true > 0.5)))
