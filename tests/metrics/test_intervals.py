from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from polyclinic.metrics.intervals import around, generator, mann_whitney, mean_of_proportions, posterior_draws, wilson


@given(st.integers(1, 500), st.data())
def test_wilson_equals_scipy(trials, data):
    hits = data.draw(st.integers(0, trials))
    expected = stats.binomtest(hits, trials).proportion_ci(0.95, method="wilson")
    assert wilson(hits / trials, trials) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_without_trials_is_nan():
    assert all(map(math.isnan, wilson(math.nan, 0)))
    assert all(map(math.isnan, wilson(0.5, 0)))


@given(st.floats(0, 1), st.integers(1, 300), st.integers(1, 300))
def test_the_auc_limits_solve_newcombes_equation(auc, positives, negatives):
    low, high = mann_whitney(auc, positives, negatives)
    assert 0 <= low <= auc <= high <= 1
    star = (positives + negatives) / 2 - 1
    for limit in (low, high):
        if 1e-6 < limit < 1 - 1e-6:  # nearer to the ends, z cannot be computed back from the limit
            spread = 1 + star * (1 - limit) / (2 - limit) + star * limit / (1 + limit)
            z = abs(auc - limit) / math.sqrt(limit * (1 - limit) * spread / (positives * negatives))
            assert z == pytest.approx(stats.norm.ppf(0.975), abs=1e-4)


def test_an_auc_of_one_pair_has_wilsons_interval_of_one_trial():
    assert mann_whitney(1.0, 1, 1) == pytest.approx(wilson(1.0, 1), abs=1e-9)


def test_one_proportion_alone_has_wilsons_interval():
    assert mean_of_proportions(np.array([7.0]), np.array([9.0])) == pytest.approx(wilson(7 / 9, 9))


def test_draws_of_a_proportion_agree_with_wilson():
    low, high = posterior_draws(np.array([40, 60]), lambda p: p[:, 0])
    expected = wilson(0.4, 100)
    assert low == pytest.approx(expected[0], abs=0.02)
    assert high == pytest.approx(expected[1], abs=0.02)
    assert all(map(math.isnan, posterior_draws(np.zeros((2, 2), dtype=np.int64), lambda p: p[:, 0, 0])))


def test_the_generator_depends_on_content_shape_and_type_only():
    def first(*arrays):
        return generator(*arrays).random()

    assert first(np.arange(4)) == first(np.arange(8)[:4])
    others = (np.arange(4), np.arange(4.0), np.arange(4).reshape(2, 2), np.arange(5))
    assert len({first(array) for array in others}) == 4


def test_an_interval_is_widened_and_cut():
    assert around(0.5, (0.4, 0.6), error_bound=0.25) == (0.15000000000000002, 0.85)
    assert around(0.9, (0.4, 0.6), low=0.0, high=1.0) == (0.4, 0.9)
    assert around(0.5, (0.1, 0.9), error_bound=0.5, low=0.0, high=1.0) == (0.0, 1.0)
    assert all(map(math.isnan, around(0.5, (math.nan, 0.9))))
