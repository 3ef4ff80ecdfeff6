"""Time-dependent area under the ROC curve: cumulative cases, dynamic controls, weighted for censoring.

Cases at the horizon t are those with an event by t, controls those still watched beyond t. Of cases, the censored are
missing; each case that was seen is therefore weighted with 1 / G(T-), G as in `survival_times`:

    AUC(t) = Σ_i w_i a_i / Σ_i w_i,  i over the cases,  a_i = share of controls with a lower risk, ties a half.

Uno, Cai, Tian, Wei, Evaluating prediction rules for t-year survivors with censored regression models, JASA 102 (2007)
527-537; Hung and Chiang, Estimation methods for time-dependent AUC models with survival data, Can. J. Stat. 38 (2010)
8-26. It presumes that censoring does not depend on the risk. Controls all have the weight 1 / G(t), which cancels.

Counts: cases in bins of time and risk, controls in bins of risk, censorings in bins of time. They decide exactly who is
a case and who a control. Not known are the order of times within a bin, which bounds each G(T-), and of risks within a
bin, which bounds each a_i. Of a weighted mean whose weights lie between bounds, the largest value has the upper weight
for all a_i above some limit and the lower weight below it; all limits are tried.

Interval: the variance of Σ w a / Σ w over cases and of the same over controls, the weights taken as given, and from it
an effective number of samples in Wilson's formula.
"""

from __future__ import annotations

import math

import numpy as np

from polyclinic.metrics.intervals import around, wilson
from polyclinic.metrics.metric import NO_ESTIMATE, Array, Counts, Estimate, Metric, Rows
from polyclinic.metrics.survival import SCORE_BINS, event_time_prediction, risk_edges, risk_of
from polyclinic.metrics.survival_times import (
    CensoringCurve,
    bin_numbers,
    censoring_from_counts,
    check_horizon,
    horizon_text,
    time_bins,
)


class TimeDependentAuc(Metric):
    """AUC(t) of a risk score at one horizon t; nan without a case or without a control.

    ``y_true`` (n, 2): event (1, or 0 for censored) and time. ``y_pred`` (n,) or (n, 1): risk, higher is worse; or
    (n, 10) survival curves up to the horizon.

    Args:
        horizon: t, in the unit of the times.

    Raises:
        ConfigError: a horizon that is not positive.
    """

    kind = "time_dependent_auc"

    def __init__(self, horizon: float) -> None:
        self.horizon = check_horizon(horizon)
        self.name = f"{self.kind}@{horizon_text(self.horizon)}"

    def rows(self, y_true: Array, y_pred: Array) -> Rows:
        """``event`` (n,) bool, ``time`` and ``risk`` (n,) float64."""
        event, time, pred = event_time_prediction(y_true, y_pred)
        return {"event": event, "time": time, "risk": risk_of(pred)}

    def value(self, rows: Rows) -> float:
        if not rows:
            return math.nan
        event, time, risk = rows["event"], rows["time"], rows["risk"]
        case, control = event & (time <= self.horizon), time > self.horizon
        if not case.any() or not control.any():
            return math.nan
        weight = 1 / CensoringCurve(event, time).before(time[case])
        ranks = np.sort(risk[control])
        below = np.searchsorted(ranks, risk[case], side="left") + np.searchsorted(ranks, risk[case], side="right")
        return float(np.average(below / (2 * len(ranks)), weights=weight))

    def counts(self, rows: Rows) -> Counts:
        """``cases`` (time bins, risk bins), ``controls`` (risk bins,) and ``censored`` (time bins,), all int64."""
        if not rows:
            return {}
        event, time = rows["event"], rows["time"]
        bins = len(time_bins(self.horizon))
        when, how = bin_numbers(time, self.horizon), np.searchsorted(risk_edges(), rows["risk"], side="right")
        case, control = event & (when < bins), when == bins
        cases = np.bincount(when[case] * SCORE_BINS + how[case], minlength=bins * SCORE_BINS)
        return {
            "cases": cases.reshape(bins, SCORE_BINS).astype(np.int64),
            "controls": np.bincount(how[control], minlength=SCORE_BINS).astype(np.int64),
            "censored": np.bincount(when[~event & ~control], minlength=bins).astype(np.int64),
        }

    def estimate(self, counts: Counts) -> Estimate:
        if not counts:
            return NO_ESTIMATE
        cases, controls = (counts[name].astype(np.float64) for name in ("cases", "controls"))
        num_cases, num_controls = cases.sum(), controls.sum()
        total = num_cases + num_controls + counts["censored"].sum()
        if not num_cases or not num_controls:
            return Estimate(math.nan, math.nan, math.nan, int(total))
        g = censoring_from_counts(cases.sum(axis=1), counts["censored"], total)
        weight = 1 / g.before
        weights, light, heavy = (np.tensordot(w, cases, axes=1) for w in (weight, 1 / g.before_high, 1 / g.before_low))
        lowest = (np.cumsum(controls) - controls) / num_controls
        highest = lowest + controls / num_controls
        middle = (lowest + highest) / 2
        value = min(float(np.average(middle, weights=weights)), 1.0)
        bound = max(_largest(highest, light, heavy) - value, value + _largest(-lowest, light, heavy))
        above = (np.cumsum(weights[::-1])[::-1] - weights / 2) / weights.sum()
        spread = np.tensordot(weight**2, cases, axes=1) @ (middle - value) ** 2 / weights.sum() ** 2
        spread += controls @ (above - value) ** 2 / num_controls**2
        # No spread, but for rounding: a perfect order, or a single pair.
        effective = (
            min(value * (1 - value) / spread, total) if 0 < value < 1 and spread else min(num_cases, num_controls)
        )
        interval = around(value, wilson(value, effective), error_bound=bound, low=0.0, high=1.0)
        return Estimate(value, *interval, int(total), error_bound=bound)


def _largest(values: Array, light: Array, heavy: Array) -> float:
    """The largest mean of ``values`` with a weight between ``light`` and ``heavy`` for each."""
    order = np.argsort(-values, kind="stable")
    values, light, heavy = values[order], light[order], heavy[order]
    # Heavy for the first k of the largest values, light for the others.
    sums = np.append(0.0, np.cumsum((heavy - light) * values)) + light @ values
    totals = np.append(0.0, np.cumsum(heavy - light)) + light.sum()
    return float((sums / totals).max())
