from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.errors import EvaluationError
from polyclinic.metrics import IntegratedBrierScore, add_counts, get_metric, metric_of_counts, survival_times

BRIER = IntegratedBrierScore(1000)
TIMES = survival_times(1000)


def cohort(rng, n, *, tied=False, censoring=1500.0):
    """Exponential times, independent censoring, and the true survival curves."""
    rate = np.exp(rng.normal(size=n)) / 1200
    event_time, censored = rng.exponential(1 / rate), rng.exponential(censoring, n)
    time = np.minimum(event_time, censored)
    if tied:
        time = np.round(time / 100) * 100
    return np.stack([event_time <= censored, time], axis=1).astype(float), np.exp(-rate[:, None] * TIMES)


def by_hand(y_true, survival):
    """The paper's sums, one subject and one time at a time, and numpy's trapezoidal rule."""
    event, time = y_true[:, 0] == 1, y_true[:, 1]

    def g(t, *, before):
        product = 1.0
        for c in np.unique(time[~event]):
            if c < t or (c == t and not before):
                watched = ((time > c) | (~event & (time == c))).sum()
                product *= 1 - (~event & (time == c)).sum() / watched
        return product

    scores = [0.0]
    for k, t in enumerate(TIMES):
        total = 0.0
        for i in range(len(time)):
            if time[i] > t:
                total += (1 - survival[i, k]) ** 2 / g(t, before=False)
            elif event[i]:
                total += survival[i, k] ** 2 / g(time[i], before=True)
        scores.append(total / len(time))
    return np.trapezoid(scores, np.append(0.0, TIMES)) / 1000


def test_three_subjects_by_hand():
    # Died at 250, censored at 450, alive at 2000: from 450 on, the last one stands for two.
    y_true = np.array([[1, 250.0], [0, 450.0], [0, 2000.0]])
    survival = np.tile([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0], (3, 1))
    s = survival[0]
    at_times = [
        ((1 - s[k]) ** 2 * 3 if k < 2 else s[k] ** 2 + (1 - s[k]) ** 2 * (2 if k < 4 else 1 / 0.5)) / 3
        for k in range(10)
    ]
    expected = (sum(at_times[:-1]) + at_times[-1] / 2) / 10
    assert BRIER.value(BRIER.rows(y_true, survival)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_it_is_the_sum_over_subjects_and_times(tied):
    y_true, survival = cohort(np.random.default_rng(5), 60, tied=tied)
    assert BRIER.value(BRIER.rows(y_true, survival)) == pytest.approx(by_hand(y_true, survival), rel=1e-12)


def test_one_half_for_all_gives_0_2375_without_censoring():
    time = np.random.default_rng(1).exponential(1000, 50)
    y_true = np.stack([np.ones(50), time], axis=1)
    assert BRIER.value(BRIER.rows(y_true, np.full((50, 10), 0.5))) == pytest.approx(0.25 * 0.95)


def test_knowing_the_future_gives_0():
    y_true, _ = cohort(np.random.default_rng(1), 50, censoring=1e12)
    assert BRIER.value(BRIER.rows(y_true, (y_true[:, 1:] > TIMES).astype(float))) == 0


def test_with_censoring_it_finds_what_would_be_there_without_and_the_true_curves_do_best():
    rng = np.random.default_rng(3)
    y_true, survival = cohort(rng, 100_000, censoring=700.0)
    # Of the true curves, the expected score at t is the mean of S (1 - S).
    at_times = (survival * (1 - survival)).mean(axis=0)
    truth = (at_times[:-1].sum() + at_times[-1] / 2) / 10
    found = BRIER.value(BRIER.rows(y_true, survival))
    assert found == pytest.approx(truth, abs=0.005)
    assert BRIER.value(BRIER.rows(y_true, survival**1.5)) > found + 0.003
    assert BRIER.value(BRIER.rows(y_true, np.tile(survival.mean(axis=0), (len(survival), 1)))) > found + 0.02


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 2**32), nodes=st.integers(1, 5), n=st.integers(1, 150), tied=st.booleans())
def test_pooled_is_within_its_own_error_bound(seed, nodes, n, tied, pooled):
    rng = np.random.default_rng(seed)
    y_true, survival = cohort(rng, n, tied=tied)
    estimate = pooled(BRIER, y_true, survival, rng.integers(0, nodes, n), batch_size=50)
    assert estimate.num_samples == n
    exact = BRIER.value(BRIER.rows(y_true, survival))
    assert math.isnan(estimate.value) == math.isnan(exact)
    if not math.isnan(exact):
        assert abs(estimate.value - exact) <= estimate.error_bound + 1e-12
        assert not estimate.low > exact + 1e-12
        assert not exact - 1e-12 > estimate.high


def test_the_bound_is_small_for_a_typical_cohort_and_counts_add_up():
    y_true, survival = cohort(np.random.default_rng(1), 500)
    whole = BRIER.counts(BRIER.rows(y_true, survival))
    assert BRIER.estimate(whole).error_bound < 0.01
    parts = add_counts(
        BRIER.counts(BRIER.rows(y_true[:99], survival[:99])), BRIER.counts(BRIER.rows(y_true[99:], survival[99:]))
    )
    for name in whole.keys() - {"sum", "sum_of_squares"}:  # these rest on each node's own weights
        np.testing.assert_allclose(whole[name], parts[name], rtol=1e-12)
    one = BRIER.counts(BRIER.rows(y_true[:1], survival[:1]))
    assert {name: array.shape for name, array in one.items()} == {name: array.shape for name, array in whole.items()}


def test_the_interval_covers_the_score_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = BRIER.value(BRIER.rows(*cohort(rng, 100_000, censoring=1e12)))
    estimates = [BRIER.estimate(BRIER.counts(BRIER.rows(*cohort(rng, 150)))) for _ in range(150)]
    hits = [e.low + e.error_bound <= truth <= e.high - e.error_bound for e in estimates]
    assert 0.88 < np.mean(hits) <= 1


def test_if_nobody_was_watched_beyond_the_horizon_it_is_nan():
    y_true = np.array([[1, 250.0], [0, 1000.0]])
    estimate = BRIER.node_estimate(BRIER.rows(y_true, np.full((2, 10), 0.5)))
    assert math.isnan(estimate.value)
    for rows in ({}, BRIER.rows(np.zeros((0, 2)), np.zeros((0, 10)))):
        assert math.isnan(BRIER.node_estimate(rows).value)


def test_nodes_without_long_watched_patients_of_their_own_have_a_score_together(pooled):
    y_true = np.array([[1, 250.0], [0, 400.0], [0, 2000.0]])
    assert not math.isnan(pooled(BRIER, y_true, np.full((3, 10), 0.5), np.array([0, 0, 1])).value)


def test_it_is_asked_for_by_its_name_and_horizon_and_lower_is_better():
    metric = get_metric("integrated_brier@1000")
    assert metric.name == BRIER.name == "integrated_brier@1000"
    assert metric.higher_is_better is False
    counts = BRIER.counts(BRIER.rows(*cohort(np.random.default_rng(1), 40)))
    assert metric_of_counts(BRIER.name, counts).estimate(counts) == BRIER.estimate(counts)
    assert pickle.loads(pickle.dumps(metric)).horizon == 1000.0


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 9)])
def test_other_predictions_than_curves_are_refused(shape):
    with pytest.raises(EvaluationError, match="needs survival curves") as caught:
        BRIER.rows(np.array([[1, 5.0], [0, 6.0], [1, 7.0]]), np.full(shape, 0.5))
    assert "survival_times(1000)" in caught.value.to_do
