"""R², the coefficient of determination: 1 - Σ (y - ŷ)² / Σ (y - ȳ)², pooled exactly from sums.

Interval by the delta method: with k = 1 - R² and m = ȳ, R² changes with sample i by -g_i / (n s²), where
g_i = (y_i - ŷ_i)² - k (y_i - m)² has mean 0 and s² = Σ (y - m)² / n. So Var R² ≈ Σ g² / (n s²)², and Σ g² follows from
sums of powers of y up to the fourth.
"""

from __future__ import annotations

import math

import numpy as np

from polyclinic.metrics.intervals import around, student_t
from polyclinic.metrics.means import target_and_prediction
from polyclinic.metrics.metric import NO_ESTIMATE, Array, Counts, Estimate, Metric, Rows

# Sums of powers lose digits when the spread of y is small beside its mean. Below these shares of Σ y², no number is
# better than a wrong one: the value then has fewer than about six digits, the interval fewer than about four.
LEAST_SPREAD = 1e-10
LEAST_SPREAD_OF_INTERVAL = 1e-6


class RSquared(Metric):
    """R² of (n,) or (n, 1) predictions; nan for fewer than two samples and for targets that are all the same."""

    name = "r2"

    def rows(self, y_true: Array, y_pred: Array) -> Rows:
        """``target`` and ``prediction``, each (n,) float64."""
        target, prediction = target_and_prediction(y_true, y_pred)
        return {"target": target, "prediction": prediction}

    def value(self, rows: Rows) -> float:
        if not rows or len(rows["target"]) < 2 or np.ptp(rows["target"]) == 0:
            return math.nan
        from sklearn.metrics import r2_score

        return float(r2_score(rows["target"], rows["prediction"]))

    def counts(self, rows: Rows) -> Counts:
        """``num_samples`` () int64, ``target_powers`` (4,): Σ y .. Σ y⁴, ``squared_errors`` (4,): Σ e², Σ e² y,
        Σ e² y², Σ e⁴, where e is the error."""
        if not rows:
            return {}
        y = rows["target"]
        e2 = (y - rows["prediction"]) ** 2
        return {
            "num_samples": np.asarray(len(y), dtype=np.int64),
            "target_powers": np.array([(y**power).sum() for power in (1, 2, 3, 4)]),
            "squared_errors": np.array([e2.sum(), (e2 * y).sum(), (e2 * y**2).sum(), (e2**2).sum()]),
        }

    def estimate(self, counts: Counts) -> Estimate:
        if not counts:
            return NO_ESTIMATE
        n = int(counts["num_samples"])
        y1, y2, y3, y4 = (float(power) for power in counts["target_powers"])
        e2, e2y, e2y2, e4 = (float(error) for error in counts["squared_errors"])
        mean = y1 / n if n else math.nan
        spread = y2 - y1 * mean  # Σ (y - m)²
        if n < 2 or spread <= LEAST_SPREAD * y2:
            return Estimate(math.nan, math.nan, math.nan, n)
        k = e2 / spread
        if spread <= LEAST_SPREAD_OF_INTERVAL * y2:
            return Estimate(1 - k, math.nan, math.nan, n)
        # Σ e² (y - m)² and Σ (y - m)⁴, by the binomial theorem.
        mixed = e2y2 - 2 * mean * e2y + mean**2 * e2
        fourth = y4 - 4 * mean * y3 + 6 * mean**2 * y2 - 3 * mean**3 * y1
        squares = max(e4 - 2 * k * mixed + k**2 * fourth, 0.0)
        interval = student_t(1 - k, squares * n / spread**2, n, n)
        return Estimate(1 - k, *around(1 - k, interval, high=1.0), n)
