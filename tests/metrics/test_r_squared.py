from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from polyclinic.metrics import get_metric

R2 = get_metric("r2")


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    nodes=st.integers(1, 5),
    n=st.integers(2, 200),
    shift=st.sampled_from([0.0, 3.0]),
    noise=st.sampled_from([0.0, 0.3, 4.0]),
)
def test_pooled_equals_scikit_learn_on_all_samples(seed, nodes, n, shift, noise, pooled):
    rng = np.random.default_rng(seed)
    y_true = rng.normal(shift, 1, n)
    y_pred = y_true + noise * rng.normal(size=n)
    estimate = pooled(R2, y_true, y_pred, rng.integers(0, nodes, n))
    exact = r2_score(y_true, y_pred)
    lost_digits = max(1, y_true.mean() ** 2 / y_true.var())  # two samples may lie close together, far from 0
    assert estimate.value == pytest.approx(exact, abs=1e-12 * (1 + abs(exact)) * lost_digits)
    assert estimate.low <= estimate.value <= estimate.high <= 1
    assert R2.value(R2.rows(y_true, y_pred)) == exact


def test_the_interval_is_near_that_of_a_bootstrap_of_rows():
    rng = np.random.default_rng(0)
    y_true = rng.normal(20, 3, 600)
    y_pred = y_true + 0.8 * (y_true - 20) * rng.normal(size=600)  # errors that grow with the target, so all sums count
    draws = rng.integers(600, size=(1_500, 600))
    low, high = np.quantile([r2_score(y_true[rows], y_pred[rows]) for rows in draws], [0.025, 0.975])
    estimate = R2.node_estimate(R2.rows(y_true, y_pred))
    assert estimate.high - estimate.low == pytest.approx(high - low, rel=0.1)
    assert estimate.low + estimate.high == pytest.approx(low + high, abs=0.1 * (high - low))


@pytest.mark.parametrize("y_true", [[], [2.0], [0.1, 0.1, 0.1], [1e6, 1e6, 1e6]])
def test_targets_without_spread_have_no_r2(y_true):
    estimate = R2.node_estimate(R2.rows(np.array(y_true), np.array(y_true) + 1))
    assert math.isnan(estimate.value)
    assert math.isnan(estimate.low)
    assert estimate.num_samples == len(y_true)
    assert math.isnan(R2.estimate(R2.counts(R2.rows(np.array(y_true), np.array(y_true) + 1))).value)


def test_no_batch_is_nan():
    assert math.isnan(R2.node_estimate({}).value)


def test_where_sums_lose_too_many_digits_there_is_no_number():
    rng = np.random.default_rng(0)

    def estimate(mean):
        y_true = rng.normal(mean, 1, 100)
        return R2.estimate(R2.counts(R2.rows(y_true, y_true + 0.5))), r2_score(y_true, y_true + 0.5)

    good, exact = estimate(1e4)
    assert good.value == pytest.approx(exact, abs=1e-6)
    assert math.isnan(good.low)
    assert math.isnan(estimate(1e6)[0].value)
