from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from polyclinic.errors import EvaluationError
from polyclinic.metrics import CustomMetric, metric_of_counts


def mean_gap(y_true, y_pred):
    return float(np.mean(y_pred - y_true))


def test_the_nodes_value_is_the_functions():
    rng = np.random.default_rng(0)
    y_true, y_pred = rng.random((9, 2)), rng.random((9, 2))
    metric = CustomMetric("gap", mean_gap)
    estimate = metric.node_estimate(metric.rows(y_true, y_pred))
    assert estimate.value == mean_gap(y_true, y_pred)
    assert estimate.exact
    assert estimate.low < estimate.value < estimate.high


def test_pooled_is_the_mean_weighted_by_samples_and_says_so(pooled):
    y_true, y_pred = np.zeros(10), np.array([1.0] * 8 + [0.0, 1.0])
    metric = CustomMetric("max", lambda y_true, y_pred: y_pred.min())
    estimate = pooled(metric, y_true, y_pred, np.array([0] * 8 + [1] * 2))
    assert estimate.value == 0.8
    assert not estimate.exact
    assert estimate.num_samples == 10


def test_the_interval_is_near_the_known_one(pooled):
    rng = np.random.default_rng(1)
    y_pred, node = rng.normal(size=600), rng.integers(0, 3, 600)
    metric = CustomMetric("gap", mean_gap)
    for estimate in (
        pooled(metric, np.zeros(600), y_pred, node, batch_size=50),
        metric.node_estimate(metric.rows(np.zeros(600), y_pred)),
    ):
        half = 1.96 * y_pred.std() / math.sqrt(600)
        assert estimate.low == pytest.approx(y_pred.mean() - half, abs=0.3 * half)
        assert estimate.high == pytest.approx(y_pred.mean() + half, abs=0.3 * half)


def test_the_bootstrap_is_the_same_each_time_and_leaves_the_global_generator_alone():
    metric = CustomMetric("gap", mean_gap)
    rows = metric.rows(np.zeros(5), np.arange(5.0))
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert metric.counts(rows) == metric.counts(rows)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_a_node_without_a_value_does_not_count(pooled):
    def auc(y_true, y_pred):
        return roc_auc_score(y_true, y_pred) if len(set(y_true)) > 1 else math.nan

    y_true, y_pred = np.array([0, 1] * 10 + [1] * 5), np.linspace(0, 1, 25)
    node = np.array([0] * 20 + [1] * 5)
    metric = CustomMetric("auc", auc)
    estimate = pooled(metric, y_true, y_pred, node)
    assert estimate.value == auc(y_true[:20], y_pred[:20])
    assert estimate.num_samples == 25
    alone = metric.node_estimate(metric.rows(y_true[20:], y_pred[20:]))
    assert math.isnan(alone.value)
    assert math.isnan(alone.low)


def test_draws_in_which_the_function_fails_are_left_out():
    def two_or_more(y_true, y_pred):
        if len(np.unique(y_pred)) < 3:
            raise ValueError("too few")
        return float(y_pred.mean())

    metric = CustomMetric("x", two_or_more)
    assert metric.node_estimate(metric.rows(np.zeros(8), np.arange(8.0))).low < 3.5
    assert math.isnan(metric.node_estimate(metric.rows(np.zeros(3), np.arange(3.0))).low)


def test_a_failing_function_is_named_and_its_text_kept_back():
    def broken(y_true, y_pred):
        raise KeyError("patient 4711")

    metric = CustomMetric("mine", broken)
    with pytest.raises(EvaluationError, match="the function of metric 'mine' failed with KeyError") as err:
        metric.value(metric.rows(np.zeros(3), np.zeros(3)))
    assert "4711" not in str(err.value)
    assert isinstance(err.value.__cause__, KeyError)


def test_one_sample_and_no_draws_have_no_interval():
    for metric, n in ((CustomMetric("gap", mean_gap), 1), (CustomMetric("gap", mean_gap, draws=0), 9)):
        estimate = metric.node_estimate(metric.rows(np.zeros(n), np.ones(n)))
        assert estimate.value == 1
        assert math.isnan(estimate.low)


def test_no_samples_are_nan():
    metric = CustomMetric("gap", mean_gap)
    for rows in ({}, metric.rows(np.zeros(0), np.zeros(0))):
        assert math.isnan(metric.node_estimate(rows).value)


def test_counts_are_enough_without_the_function():
    metric = CustomMetric("accuracy", mean_gap)  # also under a name that is taken
    counts = metric.counts(metric.rows(np.zeros(5), np.arange(5.0)))
    assert metric_of_counts("accuracy", counts).estimate(counts) == metric.estimate(counts)


def test_predictions_of_another_length_are_refused():
    with pytest.raises(EvaluationError, match="not one prediction a sample"):
        CustomMetric("gap", mean_gap).rows(np.zeros(3), np.zeros(2))
