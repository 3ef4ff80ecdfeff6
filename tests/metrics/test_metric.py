from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from polyclinic.errors import AggregationError, EvaluationError
from polyclinic.metrics import Estimate, add_counts, join_rows

int_counts = st.fixed_dictionaries(
    {
        "a": arrays(np.int64, (2, 2), elements=st.integers(0, 10**6)),
        "b": arrays(np.int64, (), elements=st.integers(0, 9)),
    }
)


def test_an_estimate_with_nan_equals_itself_after_json():
    estimate = Estimate(np.float64("nan"), math.nan, 0.25, np.int64(3), error_bound=0.5, exact=False)
    assert Estimate(**json.loads(json.dumps(asdict(estimate)))) == estimate
    assert estimate != Estimate(0.0, math.nan, 0.25, 3, error_bound=0.5, exact=False)


@given(int_counts, int_counts, int_counts)
def test_counts_add_up_in_any_order(a, b, c):
    left, right = add_counts(add_counts(a, b), c), add_counts(a, add_counts(c, b))
    assert left.keys() == right.keys()
    for name in left:
        np.testing.assert_array_equal(left[name], right[name])
        assert isinstance(left[name], np.ndarray)
        assert left[name].dtype == np.int64


def test_no_counts_change_nothing():
    counts = {"sum": np.asarray(2.5)}
    assert add_counts({}, counts) == counts
    assert add_counts(counts, {}) == counts
    assert add_counts({}, {}) == {}


def test_counts_are_not_changed_in_place():
    counts = {"sum": np.array([1.0])}
    add_counts(counts, counts)
    assert counts["sum"] == 1.0


def test_counts_of_another_metric_are_refused():
    with pytest.raises(AggregationError, match="'positive', 'sum' on one side only") as err:
        add_counts({"sum": np.zeros(1), "n": np.zeros(1)}, {"positive": np.zeros(1), "n": np.zeros(1)})
    assert "same version" in err.value.to_do


def test_counts_of_another_number_of_classes_are_refused():
    with pytest.raises(AggregationError, match=r"'confusion' have shapes \(2, 2\) and \(3, 3\)") as err:
        add_counts({"confusion": np.zeros((2, 2))}, {"confusion": np.zeros((3, 3))})
    assert "same classes" in err.value.to_do


def test_shapes_are_not_broadcast():
    with pytest.raises(AggregationError):
        add_counts({"sum": np.zeros(())}, {"sum": np.zeros(3)})


def test_rows_of_batches_are_joined_in_order():
    rows = join_rows([{"x": np.array([1, 2])}, {"x": np.array([], dtype=int)}, {"x": np.array([3])}])
    np.testing.assert_array_equal(rows["x"], [1, 2, 3])
    assert join_rows([]) == {}


@pytest.mark.parametrize("other", [{"x": np.zeros((4, 3))}, {"y": np.zeros((4, 2))}])
def test_batches_of_different_kinds_are_refused(other):
    with pytest.raises(EvaluationError, match="rows of different kinds"):
        join_rows([{"x": np.zeros((4, 2))}, other])
