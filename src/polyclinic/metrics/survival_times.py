"""Bins of time up to a horizon, and the censoring curve that survival metrics weigh with, exact or from counts.

Let G(t) be the probability of not being censored by time t. Kaplan and Meier's estimator of it multiplies, over the
times at which somebody is censored, (m - c) / m, where c of the m subjects still watched are censored. Of equal times,
an event counts as earlier than a censoring.

From counts in bins of time, the order within a bin is not known. With n watched at a bin's start, d events and c
censorings in it, the bin's factor lies between (n - d - c) / (n - d), all events first, and (n - c) / n, all
censorings first.

Kaplan and Meier, Nonparametric estimation from incomplete observations, JASA 53 (1958) 457-481.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import ConfigError

Array = NDArray[np.float64]

NUM_STEPS = 10  # the times of a survival curve: tenths of the horizon
_BINS_PER_OCTAVE = 16
_OCTAVES = 14


def check_horizon(horizon: float) -> float:
    """The horizon as a float; ConfigError if it is not a positive number."""
    number = float(horizon)
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(
            f"the horizon of a survival metric must be a positive time, not {horizon!r}",
            to_do="give it in the unit of the target's times, for example 1825 for five years in days",
        )
    return number


def horizon_text(horizon: float) -> str:
    """As in a metric's name: 1825, or 0.5."""
    return str(int(horizon)) if horizon == int(horizon) else repr(horizon)


def survival_times(horizon: float) -> Array:
    """(10,) the times at which a predicted survival curve is given: tenths of the horizon, the horizon the last."""
    times = check_horizon(horizon) * np.arange(1, NUM_STEPS + 1) / NUM_STEPS
    times[-1] = horizon  # to the last bit, whatever the rounding
    return times


@functools.lru_cache(maxsize=64)
def time_bins(horizon: float) -> Array:
    """Upper ends of the bins, the horizon the last: bin b holds times in (bins[b - 1], bins[b]].

    Steps of horizon * 2^-k (1 + j / 16) / 2, so a bin is 3 to 6 % of its time wide, and `survival_times` among them.
    """
    mantissas = (1 + np.arange(_BINS_PER_OCTAVE) / _BINS_PER_OCTAVE) / 2
    octaves = np.ldexp(check_horizon(horizon), -np.arange(_OCTAVES))
    edges = np.unique(np.concatenate([np.outer(octaves, mantissas).ravel(), survival_times(horizon)]))
    edges.flags.writeable = False
    return edges


def bin_numbers(time: Array, horizon: float) -> NDArray[np.int64]:
    """(n,) the bin of each time; ``len(time_bins(horizon))`` for times beyond the horizon."""
    return np.searchsorted(time_bins(horizon), time, side="left").astype(np.int64)


class CensoringCurve:
    """Kaplan and Meier's estimate of G from the subjects themselves.

    Args:
        event: (n,) True for an event, False for a censoring.
        time: (n,) when.
    """

    def __init__(self, event: NDArray[np.bool_], time: Array) -> None:
        self._times, index = np.unique(time, return_inverse=True)
        events = np.bincount(index, weights=event, minlength=len(self._times)).astype(np.float64)
        censored = np.bincount(index, weights=~event, minlength=len(self._times)).astype(np.float64)
        watched = _watched(events, censored, len(time))
        self._curve = np.append(1.0, _product(_share(watched - events - censored, watched - events)))

    def at(self, time: Array) -> Array:
        """G(t): those censored at t itself are gone."""
        return self._curve[np.searchsorted(self._times, time, side="right")]

    def before(self, time: Array) -> Array:
        """G(t-): just before t."""
        return self._curve[np.searchsorted(self._times, time, side="left")]


class Censoring(NamedTuple):
    """What counts in bins tell of G: (bins,) an estimate, and the bounds that the exact one lies between.

    Attributes:
        before, before_low, before_high: G just before an event of the bin.
        after, after_low, after_high: G at the end of the bin.
    """

    before: Array
    before_low: Array
    before_high: Array
    after: Array
    after_low: Array
    after_high: Array


def censoring_from_counts(events: Array, censored: Array, total: float) -> Censoring:
    """G from counts in bins of time.

    Args:
        events: (bins,) events in each bin.
        censored: (bins,) censorings in each bin.
        total: all subjects, those beyond the last bin too.
    """
    events, censored = np.asarray(events, dtype=np.float64), np.asarray(censored, dtype=np.float64)
    watched = _watched(events, censored, total)
    after_low = _product(_share(watched - events - censored, watched - events))
    after_high = _product(_share(watched - censored, watched))
    start_low, start_high = (np.append(1.0, curve[:-1]) for curve in (after_low, after_high))
    # At the worst, an event comes after all other events and then all censorings of its bin.
    others = watched - np.maximum(events - 1, 0)
    before_low = start_low * _share(others - censored, others)
    return Censoring(
        # Geometric middles, because the bounds are products of shares.
        before=np.sqrt(before_low * start_high),
        before_low=before_low,
        before_high=start_high,
        after=np.sqrt(after_low * after_high),
        after_low=after_low,
        after_high=after_high,
    )


def _product(shares: Array) -> Array:
    return np.cumprod(shares).astype(np.float64)


def _watched(events: Array, censored: Array, total: float) -> Array:
    """Subjects still watched at each bin's start."""
    return total - np.append(0.0, np.cumsum(events + censored)[:-1])


def _share(part: Array, whole: Array) -> Array:
    """part / whole; 1 where there is nobody."""
    return np.divide(part, whole, out=np.ones_like(whole), where=whole > 0)
