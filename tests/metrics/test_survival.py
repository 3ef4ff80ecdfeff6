from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.errors import EvaluationError
from polyclinic.metrics import ConcordanceIndex
from polyclinic.metrics.survival import count_pairs, has_admissible_pair, index_variance, risk_edges, time_edges

METRIC = ConcordanceIndex()


def cohort(rng, n, *, tied=False, spread=1.0):
    """Exponential survival times in days with a true risk, and uniform censoring."""
    risk = rng.normal(size=n) * spread
    event_time, censored = rng.exponential(1200 * np.exp(-risk)), rng.uniform(100, 3000, n)
    time = np.minimum(event_time, censored)
    if tied:
        time, risk = np.round(time / 300) * 300, np.round(risk)
    return np.stack([event_time <= censored, time], axis=1), risk


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    nodes=st.integers(1, 5),
    n=st.integers(2, 120),
    tied=st.booleans(),
    offset=st.sampled_from([0.0, 20.0, -300.0]),
)
def test_pooled_is_within_its_own_error_bound_of_lifelines(seed, nodes, n, tied, offset, pooled):
    lifelines = pytest.importorskip("lifelines.utils")
    rng = np.random.default_rng(seed)
    y_true, risk = cohort(rng, n, tied=tied)
    estimate = pooled(METRIC, y_true, risk + offset, rng.integers(0, nodes, n), batch_size=50)
    assert estimate.num_samples == n
    if math.isnan(estimate.value):
        return
    exact = lifelines.concordance_index(y_true[:, 1], -(risk + offset), y_true[:, 0])
    assert abs(estimate.value - exact) <= estimate.error_bound + 1e-12
    assert 0 <= estimate.low <= exact + 1e-12
    assert exact - 1e-12 <= estimate.high <= 1
    assert METRIC.value(METRIC.rows(y_true, risk[:, None] + offset)) == exact


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=0, max_size=6))
def test_an_admissible_pair_is_found_where_lifelines_finds_one(subjects):
    lifelines = pytest.importorskip("lifelines.utils")
    event, time = np.array([s[0] for s in subjects], dtype=bool), np.array([s[1] for s in subjects], dtype=float)
    try:
        lifelines.concordance_index(time, np.zeros(len(time)), event)
        found = True
    except ZeroDivisionError:
        found = False
    assert has_admissible_pair(event, time) == found


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_pairs_and_variance_equal_those_counted_one_by_one(seed):
    rng = np.random.default_rng(seed)
    subjects = [(rng.integers(0, 2), rng.integers(0, 5), rng.integers(0, 4)) for _ in range(25)]
    events, censored = np.zeros((5, 4)), np.zeros((5, 4))
    for event, time, risk in subjects:
        (events if event else censored)[time, risk] += 1
    pairs = count_pairs(events, events + censored)

    admissible, concordant, tied, undecided = np.zeros(25), np.zeros(25), 0, 0
    for (i, a), (j, b) in itertools.combinations(enumerate(subjects), 2):
        if a[1] == b[1]:
            undecided += bool(a[0] or b[0])
            continue
        first, second = (a, b) if a[1] < b[1] else (b, a)
        if first[0]:
            won = 0.5 if first[2] == second[2] else float(first[2] > second[2])
            tied += first[2] == second[2]
            admissible[[i, j]] += 1
            concordant[[i, j]] += won
    assert pairs == (admissible.sum() / 2, concordant.sum() / 2, tied, undecided)
    assert index_variance(events, censored, 0.6) == pytest.approx(((concordant - 0.6 * admissible) ** 2).sum())


def test_no_order_of_the_subjects_in_their_bins_breaks_the_bound_and_the_worst_one_reaches_it():
    """Two early subjects share a bin of time, the second and a late one a bin of score: the bound by brute force."""
    lifelines = pytest.importorskip("lifelines.utils")
    exact = []
    for first, second, middle, late in itertools.product(range(3), repeat=4):
        event, time = np.array([1, 1, 0]), np.array([10 + first * 1e-6, 10 + second * 1e-6, 100])
        risk = np.array([5, 1 + middle * 1e-6, 1 + late * 1e-6])
        exact.append(lifelines.concordance_index(time, -risk, event))
    estimate = METRIC.estimate(METRIC.counts(METRIC.rows(np.stack([event, time], axis=1), risk)))
    assert estimate.value == 0.75
    assert max(abs(value - 0.75) for value in exact) == pytest.approx(estimate.error_bound, abs=1e-12)


def test_the_bound_is_small_for_a_typical_cohort():
    for n in (200, 2_000):
        y_true, risk = cohort(np.random.default_rng(n), n)
        assert METRIC.estimate(METRIC.counts(METRIC.rows(y_true, risk))).error_bound < 0.03


def test_the_interval_covers_the_index_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = METRIC.estimate(METRIC.counts(METRIC.rows(*cohort(rng, 100_000)))).value
    estimates = [METRIC.estimate(METRIC.counts(METRIC.rows(*cohort(rng, 150)))) for _ in range(200)]
    hits = [e.low + e.error_bound <= truth <= e.high - e.error_bound for e in estimates]
    assert 0.9 < np.mean(hits) < 1


def test_an_index_of_one_from_one_event_does_not_look_certain():
    y_true = np.array([[1, 10.0], [0, 50.0], [0, 70.0], [0, 90.0]])
    estimate = METRIC.node_estimate(METRIC.rows(y_true, np.array([3.0, 2.0, 1.0, 0.0])))
    assert estimate.value == estimate.high == 1
    assert estimate.low < 0.3


@pytest.mark.parametrize("y_true", [[[0, 5.0], [0, 7.0]], [[1, 5.0]], [[0, 3.0], [1, 5.0]], [[1, 5.0], [1, 5.0]]])
def test_no_admissible_pair_is_nan(y_true):
    estimate = METRIC.node_estimate(METRIC.rows(np.array(y_true), np.zeros(len(y_true))))
    assert math.isnan(estimate.value)
    assert math.isnan(estimate.low)
    assert estimate.num_samples == len(y_true)


def test_nodes_without_a_pair_of_their_own_have_one_together(pooled):
    y_true, risk = np.array([[1, 5.0], [0, 7.0]]), np.array([1.0, 0.0])
    assert pooled(METRIC, y_true, risk, np.array([0, 1])).value == 1


def test_no_samples_are_nan():
    for rows in ({}, METRIC.rows(np.zeros((0, 2)), np.zeros(0))):
        assert math.isnan(METRIC.node_estimate(rows).value)


def test_the_edges_increase_and_are_fixed():
    for edges in (time_edges(), risk_edges()):
        assert (np.diff(edges) > 0).all()
    assert (time_edges()[0], time_edges()[-1]) == (0.125, 8192.0)
    assert time_edges()[16 * 10 : 16 * 10 + 3].tolist() == [128.0, 136.0, 144.0]
    assert risk_edges()[255] == 0.0
    assert risk_edges()[255 + 128] == 8.0


def test_times_before_the_first_edge_and_beyond_the_last_are_counted():
    counts = METRIC.counts(METRIC.rows(np.array([[1, -3.0], [0, 1e9]]), np.array([1e300, -1e300])))
    assert counts["events"][0, -1] == 1
    assert counts["censored"][-1, 0] == 1
    assert counts["events"].dtype == np.int64


def test_swapped_columns_are_noticed_without_showing_them():
    with pytest.raises(EvaluationError, match="2 of 3 values in the first column of the targets") as err:
        METRIC.rows(np.array([[1234.5, 1], [1, 1], [88.25, 0]]), np.zeros(3))
    assert "event (0 or 1) in the first column" in err.value.to_do
    assert "1234" not in str(err.value)


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 3)])
def test_targets_need_two_columns(shape):
    with pytest.raises(EvaluationError, match="survival needs two columns, event and time"):
        METRIC.rows(np.zeros(shape), np.zeros(3))


def test_a_missing_lifelines_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "lifelines.utils", None)
    with pytest.raises(EvaluationError, match="which is not installed") as err:
        METRIC.value(METRIC.rows(np.array([[1, 1.0], [1, 2.0]]), np.zeros(2)))
    assert "polyclinic[survival]" in err.value.to_do
