"""Concordance index of survival predictions: exact at a node, pooled from counts in bins of time and score.

Harrell's index (Harrell et al., JAMA 247, 1982, 2543-2546) is the share of the admissible pairs in which the subject
who had the event first has the higher risk score, equal scores counting half. A pair is admissible if the earlier time
is that of an event; of two equal times, if exactly one is an event, which then counts as the earlier.

Counts: how many subjects, with and without event, fall in each bin of time and score. Of two subjects in different
time bins, bins decide whether the pair is admissible. Let D be the number of pairs that they decide as admissible, and
W the concordant ones with half of those in one score bin, S. Let U be the pairs in one time bin with at least one
event: they may be admissible or not, concordant or not. The estimate is W / D, and the exact index lies between
(W - S / 2) / (D + U) and (W + S / 2 + U) / (D + U).

Interval: the index is a ratio of sums over pairs, so its variance follows from how it changes with each subject
(infinitesimal jackknife, Efron, JRSS B 54, 1992, 83-127): with c_i of the d_i admissible pairs of subject i concordant,
Σ (c_i - index d_i)² / D². From this the effective number of independent pairs, index (1 - index) / variance, at most
the number of subjects, goes into Wilson's formula, which keeps the interval in [0, 1].
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import EvaluationError
from polyclinic.metrics.intervals import around, wilson
from polyclinic.metrics.metric import NO_ESTIMATE, Array, Counts, Estimate, Metric, Rows
from polyclinic.metrics.predictions import column, in_unit_interval, pair
from polyclinic.metrics.survival_times import NUM_STEPS

Grid = NDArray[np.float64]  # (time bins, score bins)

SCORE_BINS = 512
FIRST_OCTAVE, LAST_OCTAVE, BINS_PER_OCTAVE = -3, 13, 16


@functools.cache
def time_edges() -> NDArray[np.float64]:
    """Edges 2^k (1 + j / 16), from 1/8 to 8192: each bin 3 to 6 % wide, whatever the unit of time."""
    mantissas = 1 + np.arange(BINS_PER_OCTAVE) / BINS_PER_OCTAVE
    octaves = np.ldexp(1.0, np.arange(FIRST_OCTAVE, LAST_OCTAVE))
    edges = np.append(np.outer(octaves, mantissas).ravel(), np.ldexp(1.0, LAST_OCTAVE))
    edges.flags.writeable = False
    return edges


@functools.cache
def risk_edges() -> NDArray[np.float64]:
    """Edges ±8 v / (1 - v) for even steps of v in [0, 1): 0.03 wide near 0, 0.07 at 4, 0.16 at 10, 0.4 at 20."""
    half = SCORE_BINS // 2
    steps = np.arange(half) / half
    tail = 8 * steps / (1 - steps)
    edges = np.concatenate([-tail[:0:-1], tail])
    edges.flags.writeable = False
    return edges


def event_time_prediction(y_true: Array, y_pred: Array) -> tuple[NDArray[np.bool_], NDArray[np.float64], Array]:
    """(n,) who had the event, (n,) when, and the predictions of a survival metric as finite numbers.

    Raises:
        EvaluationError: targets without the two columns event (0 or 1) and time, or no numbers.
    """
    true, pred = pair(y_true, y_pred)
    if true.ndim != 2 or true.shape[1] != 2:
        raise EvaluationError(
            f"targets have shape {true.shape}, where survival needs two columns, event and time",
            to_do="let the dataset return targets of shape (n, 2): event (0 or 1), then time",
        )
    event = true[:, 0]
    if wrong := int(((event != 0) & (event != 1)).sum()):
        raise EvaluationError(
            f"{wrong} of {len(event)} values in the first column of the targets are neither 0 nor 1",
            to_do="put the event (0 or 1) in the first column and the time in the second",
        )
    return event == 1, true[:, 1].astype(np.float64), pred


def risk_of(pred: Array) -> NDArray[np.float64]:
    """(n,) a risk, higher is worse: the predictions (n,) or (n, 1) themselves, or of survival curves (n, k) one that
    ranks by the last column, log(-log S): under proportional hazards the log hazard ratio and a constant."""
    if pred.ndim == 2 and pred.shape[1] == NUM_STEPS:
        survival = in_unit_interval(pred[:, -1])
        eps = np.finfo(pred.dtype if pred.dtype.kind == "f" else np.float64).eps
        return np.log(-np.log(np.clip(survival, eps, 1 - eps)))
    return column(pred, "predictions").astype(np.float64)


class ConcordanceIndex(Metric):
    """Harrell's concordance index of a risk score; nan where no pair is admissible.

    ``y_true`` (n, 2): event (1, or 0 for censored) and time. ``y_pred`` (n,) or (n, 1): risk, higher is worse; or
    (n, 10) survival curves, see `risk_of`.
    """

    name = "concordance_index"

    def rows(self, y_true: Array, y_pred: Array) -> Rows:
        """``event`` (n,) bool, ``time`` and ``risk`` (n,) float64."""
        event, time, pred = event_time_prediction(y_true, y_pred)
        return {"event": event, "time": time, "risk": risk_of(pred)}

    def value(self, rows: Rows) -> float:
        """By lifelines.

        Raises:
            EvaluationError: lifelines is not installed.
        """
        if not rows or not has_admissible_pair(rows["event"], rows["time"]):
            return math.nan
        try:
            from lifelines.utils import concordance_index
        except ModuleNotFoundError as err:
            raise EvaluationError(
                f"the concordance index needs the package {err.name!r}, which is not installed",
                to_do="pip install 'polyclinic[survival]' at the node",
            ) from err
        return float(concordance_index(rows["time"], -rows["risk"], rows["event"]))

    def counts(self, rows: Rows) -> Counts:
        """``events`` and ``censored``: (time bins, score bins) int64."""
        if not rows:
            return {}
        shape = (len(time_edges()) + 1, SCORE_BINS)
        cells = np.searchsorted(time_edges(), rows["time"], side="right") * SCORE_BINS
        cells += np.searchsorted(risk_edges(), rows["risk"], side="right")

        def count(who: Array) -> Array:
            return np.bincount(cells[who], minlength=shape[0] * shape[1]).reshape(shape).astype(np.int64)

        return {"events": count(rows["event"]), "censored": count(~rows["event"])}

    def estimate(self, counts: Counts) -> Estimate:
        if not counts:
            return NO_ESTIMATE
        events, censored = counts["events"].astype(np.float64), counts["censored"].astype(np.float64)
        subjects = int(events.sum() + censored.sum())
        pairs = count_pairs(events, events + censored)
        if pairs.admissible == 0:
            return Estimate(math.nan, math.nan, math.nan, subjects)
        value = pairs.concordant / pairs.admissible
        every = pairs.admissible + pairs.undecided
        lowest = (pairs.concordant - pairs.tied / 2) / every
        highest = (pairs.concordant + pairs.tied / 2 + pairs.undecided) / every
        bound = max(highest - value, value - lowest)
        variance = index_variance(events, censored, value) / pairs.admissible**2
        # No variance: a perfect index, or one without any pair to compare; then each event is one independent pair.
        effective = min(value * (1 - value) / variance, subjects) if variance > 0 else float(events.sum())
        interval = around(value, wilson(value, effective), error_bound=bound, low=0.0, high=1.0)
        return Estimate(value, *interval, subjects, error_bound=bound)


class Pairs(NamedTuple):
    """Numbers of pairs, see the module's text: D, W, S and U."""

    admissible: float
    concordant: float
    tied: float
    undecided: float


def has_admissible_pair(event: NDArray[np.bool_], time: NDArray[np.float64]) -> bool:
    """True if somebody lived longer than the first event, or as long without event."""
    if not event.any():
        return False
    first = time[event].min()
    return bool((time > first).any() or (time[~event] == first).any())


def count_pairs(events: Grid, everybody: Grid) -> Pairs:
    later = _beyond(everybody)  # (t, s): subjects in later time bins with score bin s
    ties = float((events * later).sum())
    won = float((events * _below(later)).sum())
    event_times, all_times = events.sum(axis=1), everybody.sum(axis=1)
    both = (event_times * (event_times - 1)).sum() / 2
    one = (event_times * (all_times - event_times)).sum()
    return Pairs(
        admissible=float((event_times * later.sum(axis=1)).sum()),
        concordant=won + ties / 2,
        tied=ties,
        undecided=float(both + one),
    )


def index_variance(events: Grid, censored: Grid, index: float) -> float:
    """Σ (c_i - index d_i)² over all subjects i, with the pairs in which i is the earlier and the later one."""
    later = _beyond(events + censored)
    as_earlier = _below(later) + later / 2 - index * later.sum(axis=1, keepdims=True)
    earlier = events.sum(axis=0) - events - _beyond(events)  # (t, s): events in earlier time bins
    above = earlier.sum(axis=1, keepdims=True) - earlier - _below(earlier)
    as_later = above + earlier / 2 - index * earlier.sum(axis=1, keepdims=True)
    return float((events * (as_earlier + as_later) ** 2 + censored * as_later**2).sum())


def _beyond(grid: Grid) -> Grid:
    """(t, s): the sum over all time bins after t."""
    return np.cumsum(grid[::-1], axis=0)[::-1] - grid


def _below(grid: Grid) -> Grid:
    """(t, s): the sum over all score bins below s."""
    return np.cumsum(grid, axis=1) - grid
