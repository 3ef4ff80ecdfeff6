from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from polyclinic.errors import EvaluationError
from polyclinic.metrics import get_metric
from polyclinic.metrics.ranking import NUM_BINS, score_edges

TRUTH = {"roc_auc": roc_auc_score, "average_precision": average_precision_score}
NAMES = list(TRUTH)
SLACK = 1e-12  # rounding, beside the bound

# Scores of many kinds: smooth, heavily tied, rare disease, raw, and far out.
SCORES = {
    "probabilities": lambda rng, n: rng.random(n),
    "tied": lambda rng, n: rng.integers(0, 5, n) / 5,
    "constant": lambda rng, n: np.full(n, 0.3),
    "tiny": lambda rng, n: rng.random(n) * 1e-5,
    "one bin": lambda rng, n: 0.3 + rng.random(n) * 1e-7,
    "saturated": lambda rng, n: 1 - rng.random(n).astype(np.float32) ** 8 * np.float32(1e-5),
    "raw": lambda rng, n: rng.normal(size=n) * 5,
    "far": lambda rng, n: rng.normal(size=n) * 1e9,
}


@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), nodes=st.integers(1, 5), n=st.integers(2, 300))
def test_pooled_is_within_its_own_error_bound_of_scikit_learn(name, kind, seed, nodes, n, pooled):
    rng = np.random.default_rng(seed)
    y_true, score = rng.random(n) < rng.random(), SCORES[kind](rng, n)
    y_true[:2] = [True, False]
    estimate = pooled(get_metric(name), y_true, score, rng.integers(0, nodes, n), batch_size=50)
    exact = TRUTH[name](y_true, score)
    assert abs(estimate.value - exact) <= estimate.error_bound + SLACK
    assert estimate.low - SLACK <= exact <= estimate.high + SLACK
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert estimate.num_samples == n


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_the_value_is_that_of_the_binned_scores(name, seed):
    rng = np.random.default_rng(seed)
    y_true, score = rng.random(200) < 0.3, rng.normal(size=200) * 1e-7
    y_true[:2] = [True, False]
    metric = get_metric(name)
    binned = np.searchsorted(score_edges(), score, side="right")
    assert metric.estimate(metric.counts(metric.rows(y_true, score))).value == pytest.approx(
        TRUTH[name](y_true, binned), abs=1e-12
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_order_of_the_samples_in_a_bin_breaks_the_bound_and_the_worst_one_reaches_it(name):
    """Every order of two positives and two negatives in one bin, with all ties: the bound by brute force."""
    metric = get_metric(name)
    y_true = np.array([True, False, True, True, False, False, True, False])
    exact = []
    for ranks in itertools.product(range(4), repeat=4):
        score = np.array([0.9, 0.8, *(0.5 + np.array(ranks) * 1e-9), 0.2, 0.1])
        exact.append(TRUTH[name](y_true, score))
    estimate = metric.estimate(metric.counts(metric.rows(y_true, score)))
    assert max(abs(value - estimate.value) for value in exact) == pytest.approx(estimate.error_bound, abs=SLACK)


@pytest.mark.parametrize("name", NAMES)
def test_the_bound_is_small_for_typical_predictions(name):
    rng = np.random.default_rng(3)
    for n, rate in ((200, 0.3), (2_000, 0.05), (20_000, 0.3)):
        y_true = rng.random(n) < rate
        logit = rng.normal(size=n) + 1.5 * y_true + math.log(rate)
        for score in (1 / (1 + np.exp(-logit)), logit):
            metric = get_metric(name)
            assert metric.estimate(metric.counts(metric.rows(y_true, score))).error_bound < 0.005


@pytest.mark.parametrize("name", NAMES)
def test_the_node_has_the_exact_value(name):
    rng = np.random.default_rng(4)
    y_true, score = rng.random(100) < 0.4, 0.3 + rng.random(100) * 1e-7
    metric = get_metric(name)
    estimate = metric.node_estimate(metric.rows(y_true, score))
    assert estimate.value == TRUTH[name](y_true, score)
    assert estimate.error_bound == 0
    assert estimate.low <= estimate.value <= estimate.high


def test_the_edges_increase_and_are_fixed():
    edges = score_edges()
    assert len(edges) == NUM_BINS - 1
    assert (np.diff(edges) > 0).all()
    # Exact values, because nodes on other machines must have the same: u^4 / 2 at u = 1 / 2500, and 4 v / (1 - v).
    assert edges[2499] == 0.0
    assert edges[4999] == 0.5
    assert edges[7499] == 1.0
    assert edges[7499 + 1250] == 5.0
    assert edges[2499 - 1250] == -4.0


@pytest.mark.parametrize("y_true", [[0, 0, 0], [1, 2, 4]])
def test_one_class_has_no_auc(y_true):
    metric = get_metric("roc_auc")
    estimate = metric.node_estimate(metric.rows(np.array(y_true), np.array([0.1, 0.2, 0.3])))
    assert math.isnan(estimate.value)
    assert math.isnan(estimate.low)
    assert estimate.num_samples == 3


def test_nodes_of_one_class_each_have_a_pooled_auc(pooled):
    estimate = pooled(
        get_metric("roc_auc"), np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.5, 0.9]), np.array([0, 0, 1, 1])
    )
    assert estimate.value == 0.75


def test_average_precision_needs_positives_only():
    metric = get_metric("average_precision")
    assert metric.node_estimate(metric.rows(np.array([1, 1]), np.array([0.1, 0.2]))).value == 1
    assert math.isnan(metric.node_estimate(metric.rows(np.array([0, 0]), np.array([0.1, 0.2]))).value)


@pytest.mark.parametrize("name", NAMES)
def test_no_samples_are_nan(name):
    metric = get_metric(name)
    for rows in ({}, metric.rows(np.zeros(0), np.zeros(0))):
        assert math.isnan(metric.node_estimate(rows).value)
        assert metric.node_estimate(rows).num_samples == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_perfect_ranking_of_few_does_not_look_certain(name):
    metric = get_metric(name)
    estimate = metric.node_estimate(metric.rows(np.array([0] * 6 + [1] * 6), np.arange(12) / 12))
    assert estimate.value == estimate.high == 1
    assert 0.4 < estimate.low < 0.9


@pytest.mark.parametrize("name", NAMES)
def test_raw_scores_of_two_classes_are_refused_and_three_classes_too(name):
    with pytest.raises(EvaluationError, match="lie outside") as err:
        get_metric(name).rows(np.array([0, 1]), np.array([[-1.0, 3.0], [2.0, 0.0]]))
    assert "returns probabilities" in err.value.to_do
    with pytest.raises(EvaluationError, match=f"{name} is for two classes"):
        get_metric(name).rows(np.array([0, 1]), np.zeros((2, 3)))
