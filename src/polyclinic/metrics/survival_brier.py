"""Integrated Brier score of predicted survival curves, weighted for censoring.

With S_i(t) the predicted probability that subject i lives beyond t, and G as in `survival_times`,

    BS(t) = 1/n Σ_i [ S_i(t)² 1{T_i <= t, event} / G(T_i-)  +  (1 - S_i(t))² 1{T_i > t} / G(t) ]

and the integrated score is 1/τ ∫ BS(t) dt over [0, τ], by the trapezoidal rule over 0 and tenths of the horizon τ, with
BS(0) = 0. Lower is better; predicting 1/2 at all times gives 0.2375.

Graf, Schmoor, Sauerbrei, Schumacher, Assessment and comparison of prognostic classification schemes for survival data,
Stat. Med. 18 (1999) 2529-2545. It presumes that censoring does not depend on the subject.

Counts: of the events in each bin of time, how many and the sums of S_i(t_k)² at the ten times; censorings in each bin;
sums of (1 - S_i(t_k))² of those who live beyond t_k, which the bins decide exactly. Not known is the order of times
within a bin. It bounds G, and so the score, which falls as G rises.

Interval: Student's t, with the variance of the subjects' own scores. For it alone, each node weights with its own G.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import EvaluationError
from polyclinic.metrics.intervals import around, student_t
from polyclinic.metrics.metric import NO_ESTIMATE, Array, Counts, Estimate, Metric, Rows
from polyclinic.metrics.predictions import in_unit_interval
from polyclinic.metrics.survival import event_time_prediction
from polyclinic.metrics.survival_times import (
    NUM_STEPS,
    CensoringCurve,
    bin_numbers,
    censoring_from_counts,
    check_horizon,
    horizon_text,
    survival_times,
    time_bins,
)

# Of the trapezoidal rule over 0, τ/10, … τ, divided by τ; at 0 the score is 0.
_QUADRATURE = np.full(NUM_STEPS, 1 / NUM_STEPS)
_QUADRATURE[-1] /= 2


class IntegratedBrierScore(Metric):
    """The integrated Brier score up to one horizon; nan if nobody was watched beyond it.

    ``y_true`` (n, 2): event (1, or 0 for censored) and time. ``y_pred`` (n, 10): the probabilities of living beyond
    each of ``survival_times(horizon)``.

    Args:
        horizon: τ, in the unit of the times.

    Raises:
        ConfigError: a horizon that is not positive.
    """

    kind = "integrated_brier"
    higher_is_better = False

    def __init__(self, horizon: float) -> None:
        self.horizon = check_horizon(horizon)
        self.name = f"{self.kind}@{horizon_text(self.horizon)}"

    def rows(self, y_true: Array, y_pred: Array) -> Rows:
        """``event`` (n,) bool, ``time`` (n,) and ``survival`` (n, 10) float64."""
        event, time, pred = event_time_prediction(y_true, y_pred)
        if pred.ndim != 2 or pred.shape[1] != NUM_STEPS:
            raise EvaluationError(
                f"predictions have shape {pred.shape}, where {self.name} needs survival curves, (n, {NUM_STEPS})",
                to_do="let predict() return the probabilities of living beyond each of "
                f"polyclinic.metrics.survival_times({horizon_text(self.horizon)})",
            )
        return {"event": event, "time": time, "survival": in_unit_interval(pred)}

    def value(self, rows: Rows) -> float:
        if not rows or not (rows["time"] > self.horizon).any():
            return math.nan
        return float(self._scores(rows).mean())

    def counts(self, rows: Rows) -> Counts:
        """``events`` and ``censored`` (time bins,), ``beyond`` and ``num_samples`` (), int64; ``died`` (time bins, 10)
        and ``lived`` (10,), sums of squares, ``sum`` and ``sum_of_squares`` () of the scores, float64."""
        if not rows:
            return {}
        event, survival = rows["event"], rows["survival"]
        bins = len(time_bins(self.horizon))
        when, last = bin_numbers(rows["time"], self.horizon), self._last_bins()
        inside = when < bins
        died = np.zeros((bins, NUM_STEPS))
        np.add.at(died, when[event & inside], survival[event & inside] ** 2)
        died[np.arange(bins)[:, None] > last] = 0.0  # still alive at that time
        lived = ((1 - survival) ** 2 * (when[:, None] > last)).sum(axis=0)
        scores = self._scores(rows)
        return {
            "events": np.bincount(when[event & inside], minlength=bins).astype(np.int64),
            "censored": np.bincount(when[~event & inside], minlength=bins).astype(np.int64),
            "died": died,
            "lived": lived,
            "beyond": np.asarray((~inside).sum(), dtype=np.int64),
            "num_samples": np.asarray(len(event), dtype=np.int64),
            "sum": np.asarray(scores.sum()),
            "sum_of_squares": np.asarray((scores**2).sum()),
        }

    def estimate(self, counts: Counts) -> Estimate:
        if not counts:
            return NO_ESTIMATE
        total = int(counts["num_samples"])
        if not counts["beyond"]:
            return Estimate(math.nan, math.nan, math.nan, total)
        g, last = censoring_from_counts(counts["events"], counts["censored"], total), self._last_bins()

        def score(before: Array, after: Array) -> float:
            of_times = (counts["died"] / before[:, None]).sum(axis=0) + counts["lived"] / after[last]
            return float(of_times @ _QUADRATURE) / total

        value = score(g.before, g.after)
        highest, lowest = score(g.before_low, g.after_low), score(g.before_high, g.after_high)
        bound = max(highest - value, value - lowest)
        squares = max(float(counts["sum_of_squares"]) - float(counts["sum"]) ** 2 / total, 0.0)
        interval = student_t(value, squares / max(total - 1, 1), total, total)
        return Estimate(value, *around(value, interval, error_bound=bound, low=0.0), total, error_bound=bound)

    def _last_bins(self) -> NDArray[np.int64]:
        """(10,) the bin that ends at each of the ten times."""
        return bin_numbers(survival_times(self.horizon), self.horizon)

    def _scores(self, rows: Rows) -> Array:
        """(n,) each subject's part of the score, so that their mean is the score."""
        event, time, survival = rows["event"], rows["time"], rows["survival"]
        curve, times = CensoringCurve(event, time), survival_times(self.horizon)
        died = event[:, None] & (time[:, None] <= times)
        # Nobody is weighted with the G of a time beyond the last one watched: it may be 0, and stands for nobody.
        of_died = np.where(died, survival**2 / np.where(event, curve.before(time), 1.0)[:, None], 0.0)
        at_times = np.maximum(curve.at(times), np.finfo(np.float64).tiny)
        of_living = np.where(time[:, None] > times, (1 - survival) ** 2 / at_times, 0.0)
        return np.asarray((of_died + of_living) @ _QUADRATURE)
