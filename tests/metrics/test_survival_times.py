from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.errors import ConfigError
from polyclinic.metrics import survival_times
from polyclinic.metrics.survival_times import (
    CensoringCurve,
    bin_numbers,
    censoring_from_counts,
    horizon_text,
    time_bins,
)


def test_times_are_tenths_of_the_horizon():
    np.testing.assert_allclose(survival_times(50), [5, 10, 15, 20, 25, 30, 35, 40, 45, 50], rtol=1e-15)
    assert survival_times(1 / 3)[-1] == 1 / 3


@pytest.mark.parametrize("horizon", [1825.0, 0.7, 1 / 3, 1e6])
def test_bins_end_at_those_times_and_are_narrow(horizon):
    bins = time_bins(horizon)
    assert (np.diff(bins) > 0).all()
    assert bins[-1] == horizon
    assert set(survival_times(horizon)) <= set(bins)
    assert (np.diff(bins) / bins[1:] <= 1 / 16).all()
    assert bins[0] < horizon / 10_000
    assert bin_numbers(np.array([horizon, horizon * 1.001, -1.0]), horizon).tolist() == [len(bins) - 1, len(bins), 0]


def test_a_horizon_is_a_positive_number():
    for horizon in (0, -3, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="horizon of a survival metric must be a positive time"):
            survival_times(horizon)
    assert (horizon_text(1825.0), horizon_text(0.25)) == ("1825", "0.25")


@pytest.mark.parametrize("tied", [False, True])
def test_the_censoring_curve_is_that_of_lifelines(tied):
    lifelines = pytest.importorskip("lifelines")
    rng = np.random.default_rng(3)
    time = rng.integers(1, 40, 200).astype(float) if tied else rng.exponential(10, 200)
    event = rng.random(200) < 0.6
    # lifelines has no rule for events and censorings at one time; a moment earlier, events are out of the way.
    fitted = lifelines.KaplanMeierFitter().fit(np.where(event, time - 1e-7, time), ~event)
    curve = CensoringCurve(event, time)
    asked = np.linspace(0, 45, 91)
    np.testing.assert_allclose(curve.at(asked), fitted.survival_function_at_times(asked), rtol=1e-10)
    # Just before: a little earlier than the time, and than the events that were moved.
    np.testing.assert_allclose(curve.before(time), fitted.survival_function_at_times(time - 1e-6), rtol=1e-10)


def test_the_curve_by_hand():
    # Censored at 2 (4 watched), at 4 with an event at 4 that comes first (2 watched left of 3).
    event, time = np.array([1, 0, 1, 0, 0]) == 1, np.array([1.0, 2.0, 4.0, 4.0, 6.0])
    curve = CensoringCurve(event, time)
    assert curve.at(np.array([0, 1, 2, 4, 6])).tolist() == [1, 1, 3 / 4, 3 / 8, 0]
    assert curve.before(np.array([2, 4, 6])).tolist() == [1, 3 / 4, 3 / 8]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32), n=st.integers(1, 60), tied=st.booleans(), share=st.floats(0, 1))
def test_counts_bound_the_curve(seed, n, tied, share):
    rng = np.random.default_rng(seed)
    time = rng.integers(1, 130, n).astype(float) if tied else rng.uniform(0, 130, n)
    event = rng.random(n) < share
    when, bins = bin_numbers(time, 100.0), len(time_bins(100.0))
    inside = when < bins
    g = censoring_from_counts(
        np.bincount(when[event & inside], minlength=bins), np.bincount(when[~event & inside], minlength=bins), n
    )
    curve, rounding = CensoringCurve(event, time), 1e-12
    mine, exact = when[event & inside], curve.before(time[event & inside])
    assert (g.before_low[mine] <= exact + rounding).all()
    assert (exact <= g.before_high[mine] + rounding).all()
    ends = bin_numbers(survival_times(100.0), 100.0)
    exact = curve.at(survival_times(100.0))
    assert (g.after_low[ends] <= exact + rounding).all()
    assert (exact <= g.after_high[ends] + rounding).all()
    for low, middle, high in ((g.before_low, g.before, g.before_high), (g.after_low, g.after, g.after_high)):
        assert ((low <= middle + rounding) & (middle <= high + rounding)).all()
    assert (g.before_low[mine] > 0).all()
