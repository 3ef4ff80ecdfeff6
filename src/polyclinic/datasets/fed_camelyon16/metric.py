"""Area under the ROC curve of the logits, see `polyclinic.metrics.ranking`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.metrics import METRICS

METRIC = METRICS["roc_auc"]


def metric(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
    """ROC AUC in [0, 1]; nan where only one class occurs or a prediction is not a number.

    Args:
        y_true: (n, 1) or (n,) labels, 0 or 1.
        y_pred: logits or any other scores, same shape.
    """
    if not np.isfinite(y_pred).all():
        return float("nan")
    return METRIC.value(METRIC.rows(np.asarray(y_true), np.asarray(y_pred)))
