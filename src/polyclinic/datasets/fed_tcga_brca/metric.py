"""Concordance index: the share of comparable pairs of patients whose order of risk is right; ties count a half.

Harrell et al., Evaluating the yield of medical tests, JAMA 1982; computed by lifelines.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import EvaluationError
from polyclinic.metrics import ConcordanceIndex

METRIC = ConcordanceIndex()


def metric(y_true: NDArray[Any], y_pred: NDArray[Any]) -> float:
    """C-index in [0, 1]; 0.5 is chance.

    Args:
        y_true: (n, 2), event (0 or 1) and time in days.
        y_pred: (n, 1) or (n,), risk scores, higher is worse.

    Raises:
        EvaluationError: lifelines is not installed, or no pair of patients can be compared.
    """
    try:
        # Here and not above: it pulls in a plotting library, which takes a second.
        from lifelines.utils import concordance_index
    except ModuleNotFoundError as err:
        raise EvaluationError(
            "the concordance index needs lifelines, which is not installed",
            to_do="pip install 'polyclinic[survival]'",
        ) from err
    try:
        return float(concordance_index(y_true[:, 1], -np.ravel(y_pred), y_true[:, 0]))
    except ZeroDivisionError as err:
        raise EvaluationError(
            f"no two of the {len(y_true)} patients can be compared ({int(y_true[:, 0].sum())} events)",
            to_do="evaluate on more patients, or on all centers pooled",
        ) from err
