from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from polyclinic.errors import AggregationError, EvaluationError
from polyclinic.metrics import Accuracy, add_counts, get_metric

BINARY = {
    "accuracy": sk.accuracy_score,
    "balanced_accuracy": sk.balanced_accuracy_score,
    "sensitivity": sk.recall_score,
    "recall": sk.recall_score,
    "specificity": lambda y, p: sk.recall_score(y, p, pos_label=0),
    "precision": sk.precision_score,
    "f1": sk.f1_score,
    "f1_macro": lambda y, p: sk.f1_score(y, p, average="macro"),
    "mcc": sk.matthews_corrcoef,
    "cohen_kappa": sk.cohen_kappa_score,
}
MULTICLASS = ["accuracy", "balanced_accuracy", "f1_macro", "mcc", "cohen_kappa"]
BINARY_ONLY = [name for name in BINARY if name not in MULTICLASS]


@pytest.mark.parametrize("name", BINARY)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), nodes=st.integers(1, 5), n=st.integers(20, 200))
def test_pooled_two_classes_equal_scikit_learn_on_all_samples(name, seed, nodes, n, pooled):
    rng = np.random.default_rng(seed)
    y_true, y_pred = rng.integers(0, 2, n), rng.random(n)
    y_true[:2], y_pred[:2] = [0, 1], [1, 0]  # both classes, and both kinds of error
    estimate = pooled(get_metric(name), y_true, y_pred, rng.integers(0, nodes, n))
    assert estimate.value == pytest.approx(BINARY[name](y_true, y_pred > 0.5), abs=1e-12)
    assert estimate.low <= estimate.value <= estimate.high
    assert (estimate.num_samples, estimate.error_bound, estimate.exact) == (n, 0.0, True)


@pytest.mark.parametrize("name", MULTICLASS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), nodes=st.integers(1, 5), classes=st.integers(3, 8))
def test_pooled_several_classes_equal_scikit_learn_on_all_samples(name, seed, nodes, classes, pooled):
    rng = np.random.default_rng(seed)
    n = 120
    # The last class may be absent among the targets, as in many a hospital.
    y_true, y_pred = rng.integers(0, classes - 1, n), rng.normal(size=(n, classes))
    y_true[:2] = [0, 1]
    y_pred[:-10, -1] = -9.0
    if name == "balanced_accuracy":
        y_pred[:, -1] = -9.0  # scikit-learn warns of classes that are only predicted
        y_true[: classes - 1] = range(classes - 1)
    estimate = pooled(get_metric(name), y_true, y_pred, rng.integers(0, nodes, n))
    assert estimate.value == pytest.approx(BINARY[name](y_true, y_pred.argmax(axis=1)), abs=1e-12)
    assert estimate.low <= estimate.value <= estimate.high


@pytest.mark.parametrize("name", BINARY)
def test_the_nodes_own_value_is_that_of_its_counts(name, rng_rows):
    metric = get_metric(name)
    rows = metric.rows(*rng_rows)
    assert metric.value(rows) == metric.estimate(metric.counts(rows)).value == metric.node_estimate(rows).value


@pytest.fixture
def rng_rows():
    rng = np.random.default_rng(5)
    return rng.integers(0, 2, 50), rng.random(50)


def test_the_confusion_matrix_has_true_classes_in_rows():
    metric = get_metric("accuracy")
    rows = metric.rows(np.array([0, 0, 0, 1, 2]), np.eye(3)[[0, 1, 1, 2, 2]])
    confusion = metric.counts(rows)["confusion"]
    np.testing.assert_array_equal(confusion, [[1, 2, 0], [0, 0, 1], [0, 0, 1]])
    assert confusion.dtype == np.int64


def test_two_columns_and_one_column_give_the_same_figures(rng_rows):
    y_true, score = rng_rows
    for name in BINARY:
        metric = get_metric(name)
        two = metric.rows(y_true, np.stack([1 - score, score], axis=1))
        assert metric.node_estimate(two) == metric.node_estimate(metric.rows(y_true, score[:, None]))


@pytest.mark.parametrize("name", BINARY_ONLY)
def test_metrics_of_two_classes_name_those_for_more(name):
    with pytest.raises(EvaluationError, match=f"{name} is for two classes; the predictions have 3") as err:
        get_metric(name).rows(np.array([0, 1]), np.zeros((2, 3)))
    for other in MULTICLASS:
        assert other in err.value.to_do


@pytest.mark.parametrize(
    ("name", "y_true", "y_pred"),
    [
        ("sensitivity", [0, 0], [0, 1]),
        ("specificity", [1, 1], [0, 1]),
        ("precision", [0, 1], [0, 0]),
        ("f1", [0, 0], [0, 0]),
        ("mcc", [1, 1], [0, 1]),
        ("mcc", [0, 0], [0, 0]),
        ("cohen_kappa", [1, 1], [1, 1]),
    ],
)
def test_what_the_data_do_not_define_is_nan(name, y_true, y_pred):
    metric = get_metric(name)
    estimate = metric.node_estimate(metric.rows(np.array(y_true), np.array(y_pred)))
    assert math.isnan(estimate.value)
    assert math.isnan(estimate.low)
    assert math.isnan(estimate.high)
    assert estimate.num_samples == 2


def test_conventions_at_the_edge():
    def value(name, y_true, y_pred):
        metric = get_metric(name)
        return metric.value(metric.rows(np.array(y_true), np.array(y_pred)))

    assert value("mcc", [0, 1], [1, 1]) == 0  # a constant prediction knows nothing
    assert value("f1", [0, 1], [1, 0]) == 0
    assert value("balanced_accuracy", [1, 1, 1, 1], [1, 1, 1, 0]) == 0.75  # over the classes that occur
    assert value("f1_macro", [1, 1], [1, 1]) == 1


@pytest.mark.parametrize("name", BINARY)
def test_one_sample_and_a_perfect_score_do_not_look_certain(name):
    metric = get_metric(name)
    perfect = metric.node_estimate(metric.rows(np.array([0, 1] * 5), np.array([0, 1] * 5)))
    assert perfect.value == perfect.high == 1
    assert perfect.low < 0.95
    one = metric.node_estimate(metric.rows(np.array([1]), np.array([0.9])))
    assert math.isnan(one.value) or one.low < one.value <= one.high


@pytest.mark.parametrize("name", BINARY)
def test_no_samples_are_nan_with_and_without_a_batch(name):
    metric = get_metric(name)
    for rows in ({}, metric.rows(np.zeros(0), np.zeros(0))):
        estimate = metric.node_estimate(rows)
        assert math.isnan(estimate.value)
        assert math.isnan(estimate.low)
        assert estimate.num_samples == 0


def test_nodes_with_other_numbers_of_classes_do_not_add_up():
    metric = get_metric("accuracy")
    two, three = (metric.counts(metric.rows(np.array([0]), np.ones((1, c)))) for c in (2, 3))
    with pytest.raises(AggregationError, match=r"\(2, 2\) and \(3, 3\)"):
        add_counts(two, three)


@pytest.mark.parametrize("name", ["mcc", "f1_macro", "cohen_kappa"])
def test_drawn_intervals_are_the_same_each_time_and_leave_the_global_generator_alone(name, rng_rows):
    metric = get_metric(name)
    counts = metric.counts(metric.rows(*rng_rows))
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert metric.estimate(counts) == metric.estimate(counts)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


def test_other_rows_with_the_same_matrix_cannot_be_told_apart():
    metric = Accuracy()
    one = metric.counts(metric.rows(np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.2, 0.3])))
    other = metric.counts(metric.rows(np.array([1, 0, 0, 3]), np.array([0.7, 0.45, 0.0, 0.4])))
    np.testing.assert_array_equal(one["confusion"], other["confusion"])


def test_metrics_travel_to_worker_processes():
    for name in BINARY:
        assert pickle.loads(pickle.dumps(get_metric(name))).name == name
