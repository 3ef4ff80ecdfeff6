from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from polyclinic.errors import ConfigError, EvaluationError
from polyclinic.metrics import METRICS, TimeDependentAuc, add_counts, find_metric, get_metric, metric_of_counts

AUC = TimeDependentAuc(1000)


def cohort(rng, n, *, tied=False, censoring=1500.0):
    """Exponential times in days whose hazard is exp(risk) / 1200, and independent exponential censoring."""
    risk = rng.normal(size=n)
    event_time, censored = rng.exponential(1200 * np.exp(-risk)), rng.exponential(censoring, n)
    time = np.minimum(event_time, censored)
    if tied:
        time, risk = np.round(time / 100) * 100, np.round(risk)
    return np.stack([event_time <= censored, time], axis=1).astype(float), risk


def by_hand(y_true, risk, horizon):
    """The paper's sums over pairs, the weights by the product-limit formula, one subject at a time."""
    event, time = y_true[:, 0] == 1, y_true[:, 1]

    def g_before(t):
        product = 1.0
        for c in np.unique(time[~event & (time < t)]):
            watched = ((time > c) | (~event & (time == c))).sum()
            product *= 1 - (~event & (time == c)).sum() / watched
        return product

    top = bottom = 0.0
    for i in np.flatnonzero(event & (time <= horizon)):
        for j in np.flatnonzero(time > horizon):
            weight = 1 / g_before(time[i])
            bottom += weight
            top += weight * (float(risk[i] > risk[j]) + 0.5 * (risk[i] == risk[j]))
    return top / bottom if bottom else math.nan


def test_five_subjects_by_hand():
    # The one censoring at 2, of 4 watched, gives the case at 3 the weight 4/3. Controls: those at 5 and 6.
    y_true = np.array([[1, 1.0], [0, 2.0], [1, 3.0], [0, 5.0], [0, 6.0]])
    risk = np.array([0.5, 9.0, 2.0, 1.0, 0.0])
    auc = TimeDependentAuc(4)
    assert auc.value(auc.rows(y_true, risk)) == pytest.approx((1 / 2 + 4 / 3) / (1 + 4 / 3))
    assert auc.value(auc.rows(y_true, risk[:, None])) == auc.value(auc.rows(y_true, risk))


def test_without_censoring_it_is_the_area_under_the_roc_curve():
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    time, risk = rng.exponential(1000, 300), rng.normal(size=300).round(1)
    y_true = np.stack([np.ones(300), time], axis=1)
    assert AUC.value(AUC.rows(y_true, risk)) == pytest.approx(roc_auc_score(time <= 1000, risk), rel=1e-12)


@pytest.mark.parametrize("tied", [False, True])
def test_it_is_the_sum_over_pairs(tied):
    y_true, risk = cohort(np.random.default_rng(5), 60, tied=tied)
    assert AUC.value(AUC.rows(y_true, risk)) == pytest.approx(by_hand(y_true, risk, 1000), rel=1e-12)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    nodes=st.integers(1, 5),
    n=st.integers(1, 150),
    tied=st.booleans(),
    offset=st.sampled_from([0.0, 20.0, -300.0]),
)
@example(seed=65536, nodes=1, n=17, tied=True, offset=20.0)  # a perfect order, whose spread is not 0 by rounding
def test_pooled_is_within_its_own_error_bound(seed, nodes, n, tied, offset, pooled):
    rng = np.random.default_rng(seed)
    y_true, risk = cohort(rng, n, tied=tied)
    estimate = pooled(AUC, y_true, risk + offset, rng.integers(0, nodes, n), batch_size=50)
    assert estimate.num_samples == n
    exact = AUC.value(AUC.rows(y_true, risk + offset))
    assert math.isnan(estimate.value) == math.isnan(exact)
    if not math.isnan(exact):
        assert abs(estimate.value - exact) <= estimate.error_bound + 1e-12
        assert 0 <= estimate.low <= exact + 1e-12
        assert exact - 1e-12 <= estimate.high <= 1


def test_the_bound_is_small_for_a_typical_cohort_and_counts_add_up():
    y_true, risk = cohort(np.random.default_rng(1), 500)
    whole = AUC.counts(AUC.rows(y_true, risk))
    assert AUC.estimate(whole).error_bound < 0.03
    parts = add_counts(AUC.counts(AUC.rows(y_true[:99], risk[:99])), AUC.counts(AUC.rows(y_true[99:], risk[99:])))
    for name in whole:
        assert (whole[name] == parts[name]).all()
        assert whole[name].dtype == np.int64


def test_with_censoring_it_finds_the_area_that_would_be_there_without():
    """Censoring hides late cases, which are the harder ones; without weights the value would be too high."""
    rng = np.random.default_rng(11)
    risk = rng.normal(size=200_000)
    event_time = rng.exponential(1200 * np.exp(-risk))
    censored = rng.exponential(500, len(risk))
    truth = AUC.value(AUC.rows(np.stack([np.ones_like(risk), event_time], axis=1), risk))
    seen = np.stack([event_time <= censored, np.minimum(event_time, censored)], axis=1)
    assert AUC.value(AUC.rows(seen, risk)) == pytest.approx(truth, abs=0.01)
    case, control = (seen[:, 0] == 1) & (seen[:, 1] <= 1000), seen[:, 1] > 1000
    from sklearn.metrics import roc_auc_score

    kept = case | control
    assert roc_auc_score(case[kept], risk[kept]) > truth + 0.02


def test_the_interval_covers_the_area_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = AUC.estimate(AUC.counts(AUC.rows(*cohort(rng, 200_000, censoring=1e12)))).value
    estimates = [AUC.estimate(AUC.counts(AUC.rows(*cohort(rng, 150)))) for _ in range(150)]
    hits = [e.low + e.error_bound <= truth <= e.high - e.error_bound for e in estimates]
    assert 0.88 < np.mean(hits) <= 1


def test_survival_curves_rank_by_their_last_column():
    y_true, risk = cohort(np.random.default_rng(2), 80)
    hazard = np.linspace(0.05, 0.5, 10)
    curves = np.exp(-hazard * np.exp(risk)[:, None])
    concordance = METRICS["concordance_index"]
    for metric in (AUC, concordance):
        np.testing.assert_allclose(metric.rows(y_true, curves)["risk"], np.log(0.5) + risk, atol=1e-9)
    assert AUC.value(AUC.rows(y_true, curves)) == AUC.value(AUC.rows(y_true, risk))
    extreme = AUC.rows(y_true[:2], np.stack([np.zeros(10), np.ones(10)]))["risk"]
    assert np.isfinite(extreme).all()
    assert extreme[0] > extreme[1]
    with pytest.raises(EvaluationError, match="lie outside"):
        AUC.rows(y_true, curves + 1)


@pytest.mark.parametrize("y_true", [[[0, 5.0], [0, 7000.0]], [[1, 5.0], [1, 7.0]], [[0, 5.0]]])
def test_without_case_or_control_it_is_nan(y_true):
    estimate = AUC.node_estimate(AUC.rows(np.array(y_true), np.zeros(len(y_true))))
    assert math.isnan(estimate.value)
    assert math.isnan(estimate.low)
    assert estimate.num_samples == len(y_true)


def test_no_samples_are_nan():
    for rows in ({}, AUC.rows(np.zeros((0, 2)), np.zeros(0))):
        assert math.isnan(AUC.node_estimate(rows).value)


def test_it_is_asked_for_by_its_name_and_horizon():
    metric = get_metric("time_dependent_auc@1000")
    assert (metric.name, metric.horizon) == (AUC.name, 1000.0) == ("time_dependent_auc@1000", 1000.0)
    assert get_metric("time_dependent_auc@0.5").name == "time_dependent_auc@0.5"
    counts = AUC.counts(AUC.rows(*cohort(np.random.default_rng(1), 40)))
    assert metric_of_counts(AUC.name, counts).estimate(counts) == AUC.estimate(counts)
    assert pickle.loads(pickle.dumps(metric)).horizon == 1000.0
    assert find_metric("time_dependent_auc") is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("time_dependent_auc", "needs a horizon"),
        ("time_dependent_auc@soon", "needs a horizon"),
        ("time_dependent_auc@-3", "must be a positive time"),
        ("time_depending_auc@5", "unknown metric"),
    ],
)
def test_a_wrong_name_or_horizon_says_how_to_ask(name, message):
    with pytest.raises(ConfigError, match=message) as caught:
        get_metric(name)
    assert "1825" in caught.value.to_do or "'time_dependent_auc'" in caught.value.to_do


def test_swapped_columns_are_noticed():
    with pytest.raises(EvaluationError, match="2 of 2 values in the first column"):
        AUC.rows(np.array([[300.0, 1], [400.0, 0]]), np.zeros(2))
