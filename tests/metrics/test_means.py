from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from polyclinic.errors import EvaluationError
from polyclinic.metrics import MeanLoss, SampleMean, get_metric

REGRESSION = {"mae": sk.mean_absolute_error, "mse": sk.mean_squared_error, "rmse": sk.root_mean_squared_error}
PROBABILITY = {"log_loss": sk.log_loss, "brier": sk.brier_score_loss}


@pytest.mark.parametrize("name", REGRESSION)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), nodes=st.integers(1, 5), n=st.integers(2, 200))
def test_pooled_errors_equal_scikit_learn_on_all_samples(name, seed, nodes, n, pooled):
    rng = np.random.default_rng(seed)
    y_true, y_pred = rng.normal(size=n) * 50, rng.normal(size=(n, 1)) * 50
    estimate = pooled(get_metric(name), y_true, y_pred, rng.integers(0, nodes, n))
    assert estimate.value == pytest.approx(REGRESSION[name](y_true, y_pred[:, 0]), rel=1e-12)
    assert 0 <= estimate.low <= estimate.value <= estimate.high
    assert (estimate.num_samples, estimate.error_bound, estimate.exact) == (n, 0.0, True)


@pytest.mark.parametrize("name", PROBABILITY)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), nodes=st.integers(1, 5), classes=st.integers(1, 5))
def test_pooled_probabilities_equal_scikit_learn_on_all_samples(name, seed, nodes, classes, pooled):
    rng = np.random.default_rng(seed)
    y_true = rng.integers(0, max(classes, 2), 80)
    y_pred = rng.random(80) if classes == 1 else rng.dirichlet(np.ones(classes), size=80)
    y_pred[0] = np.round(y_pred[0])  # certain, and perhaps wrong
    if classes > 1:
        y_pred[0] = np.eye(classes)[1]
    estimate = pooled(get_metric(name), y_true, y_pred, rng.integers(0, nodes, 80))
    expected = PROBABILITY[name](y_true, y_pred, labels=range(max(classes, 2)))
    assert estimate.value == pytest.approx(expected, rel=1e-12)


def test_a_certain_and_wrong_float32_costs_what_scikit_learn_says():
    y_true, y_pred = np.array([1, 0]), np.array([0.0, 0.25], dtype=np.float32)
    metric = get_metric("log_loss")
    assert metric.value(metric.rows(y_true, y_pred)) == pytest.approx(sk.log_loss(y_true, y_pred), rel=1e-6)


def test_the_interval_is_students():
    values = np.random.default_rng(0).normal(size=30)
    metric = SampleMean("x", lambda y_true, y_pred: y_pred)
    estimate = metric.node_estimate(metric.rows(values, values))
    low, high = stats.t.interval(0.95, 29, loc=values.mean(), scale=stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx((low, high), rel=1e-12)


def test_the_interval_is_cut_to_the_range():
    metric = SampleMean("dice", lambda y_true, y_pred: y_pred, low=0.0, high=1.0)
    rows = metric.rows(np.zeros(3), np.array([0.9, 1.0, 0.2]))
    assert metric.node_estimate(rows).high == 1.0
    assert metric.node_estimate(metric.rows(np.zeros(3), np.array([0.0, 0.1, 0.9]))).low == 0.0


def test_soft_dice_of_volumes_pools_to_its_mean(pooled):
    def dice(y_true, y_pred):
        return 2 * (y_true * y_pred).sum((1, 2, 3)) / (y_true + y_pred).sum((1, 2, 3))

    rng = np.random.default_rng(1)
    y_true, y_pred = rng.integers(0, 2, (11, 2, 4, 4)).astype(float), rng.random((11, 2, 4, 4))
    estimate = pooled(SampleMean("dice", dice), y_true, y_pred, rng.integers(0, 3, 11), batch_size=2)
    assert estimate.value == pytest.approx(dice(y_true, y_pred).mean(), rel=1e-12)


def test_one_sample_has_a_value_and_no_interval():
    metric = get_metric("mae")
    estimate = metric.node_estimate(metric.rows(np.array([1.0]), np.array([3.0])))
    assert estimate.value == 2
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)


def test_equal_values_have_an_interval_of_no_width():
    metric = get_metric("mae")
    estimate = metric.node_estimate(metric.rows(np.zeros(7), np.full(7, 0.1)))
    assert estimate.low == pytest.approx(0.1, abs=1e-8)
    assert estimate.high == pytest.approx(0.1, abs=1e-8)


@pytest.mark.parametrize("name", [*REGRESSION, *PROBABILITY, "loss"])
def test_no_samples_are_nan(name):
    metric = get_metric(name)
    for rows in ({}, metric.rows(np.zeros(0), np.zeros(0))):
        estimate = metric.node_estimate(rows)
        assert math.isnan(estimate.value)
        assert math.isnan(estimate.high)
        assert estimate.num_samples == 0


def test_a_function_must_return_one_number_a_sample():
    metric = SampleMean("dice", lambda y_true, y_pred: np.zeros((4, 2)))
    with pytest.raises(EvaluationError, match=r"dice returned shape \(4, 2\) for a batch of 4 samples") as err:
        metric.rows(np.zeros(4), np.zeros(4))
    assert "(4,)" in err.value.to_do
    with pytest.raises(EvaluationError, match="1 of 2 values of x are NaN"):
        SampleMean("x", lambda y_true, y_pred: np.array([math.nan, 0.77])).rows(np.zeros(2), np.zeros(2))


@pytest.mark.parametrize("name", PROBABILITY)
def test_probability_scores_refuse_raw_scores(name):
    for y_pred in (np.array([-3.0, 2.0]), np.array([[1.0, 1.0], [0.5, 0.5]])):
        with pytest.raises(EvaluationError) as err:
            get_metric(name).rows(np.array([0, 1]), y_pred)
        assert err.value.to_do == "define predict() so that it returns probabilities"


def test_regression_is_of_one_number_a_sample():
    with pytest.raises(EvaluationError, match=r"targets have shape \(3, 2\)"):
        get_metric("mse").rows(np.zeros((3, 2)), np.zeros((3, 2)))


def test_losses_of_batches_and_of_samples_have_the_same_mean():
    losses = np.random.default_rng(2).exponential(size=10)
    metric = MeanLoss()
    parts = np.split(losses, [4, 7])
    batches = [metric.rows(part, np.asarray(part.mean())) for part in parts]
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    estimate = metric.node_estimate(rows)
    assert estimate.value == pytest.approx(losses.mean(), rel=1e-12)
    assert estimate.num_samples == 10
    of_samples = metric.node_estimate(metric.rows(losses, losses))
    assert of_samples.value == pytest.approx(losses.mean(), rel=1e-12)
    assert of_samples.high == pytest.approx(losses.mean() + stats.t.ppf(0.975, 9) * stats.sem(losses), rel=1e-12)


def test_the_interval_from_batch_losses_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(3)
    metric, hits = MeanLoss(), 0
    for _ in range(400):
        weights = np.array([32] * 7 + [5])
        means = np.array([rng.normal(1.0, 1.0, size).mean() for size in weights])
        estimate = metric.node_estimate({"value": means, "weight": weights})
        hits += estimate.low <= 1.0 <= estimate.high
    assert 0.91 < hits / 400 < 0.985


def test_counts_do_not_tell_rows_with_the_same_sums_apart():
    metric = get_metric("mae")
    one = metric.counts(metric.rows(np.zeros(3), np.array([1.0, 5.0, 6.0])))
    other = metric.counts(metric.rows(np.zeros(3), np.array([-2.0, 3.0, 7.0])))
    assert one == other  # both sum to 12, their squares to 62


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(EvaluationError, match="1 of 1 losses are NaN"):
        MeanLoss().rows(np.zeros(3), np.asarray(math.nan))
