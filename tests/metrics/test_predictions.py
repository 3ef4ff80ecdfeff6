from __future__ import annotations

import numpy as np
import pytest

from polyclinic.errors import EvaluationError
from polyclinic.metrics.predictions import (
    class_probabilities,
    finite,
    positive_and_score,
    true_and_predicted,
)

THREE = np.array([[0.2, 0.5, 0.3], [0.6, 0.2, 0.2]])


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_one_score_a_sample_is_positive_above_a_half_and_targets_above_zero(shape):
    y_true, y_pred = np.array([0, 1, 4, -1]).reshape(shape), np.array([0.5, 0.51, 0.0, 1.0]).reshape(shape)
    true, predicted, classes = true_and_predicted(y_true, y_pred)
    np.testing.assert_array_equal(true, [0, 1, 1, 0])
    np.testing.assert_array_equal(predicted, [0, 1, 0, 1])
    assert classes == 2


def test_several_scores_a_sample_are_compared_without_being_probabilities():
    true, predicted, classes = true_and_predicted(np.array([[2.0], [0.0]]), np.array([[-7, 3, 9], [5, 5, 1]]))
    np.testing.assert_array_equal(true, [2, 0])
    np.testing.assert_array_equal(predicted, [2, 0])
    assert classes == 3


def test_hard_labels_and_booleans_are_scores_too():
    np.testing.assert_array_equal(true_and_predicted(np.array([True, False]), np.array([1, 0]))[1], [1, 0])
    np.testing.assert_array_equal(true_and_predicted(np.array([1, 0]), np.array([True, False]))[1], [1, 0])


def test_the_number_of_classes_is_known_without_samples():
    assert true_and_predicted(np.zeros(0), np.zeros((0, 5)))[2] == 5
    assert true_and_predicted(np.zeros(0), np.zeros(0))[2] == 2


def test_a_score_and_its_rounding_beyond_one():
    _, probabilities = class_probabilities(np.array([1, 0]), np.array([1 + 1e-7, -1e-7]))
    np.testing.assert_array_equal(probabilities, [[0, 1], [1, 0]])


def test_two_columns_rank_by_the_second():
    positive, score = positive_and_score(np.array([1, 0]), np.array([[0.3, 0.7], [0.9, 0.1]]))
    np.testing.assert_array_equal(positive, [True, False])
    np.testing.assert_array_equal(score, [0.7, 0.1])


def test_one_column_ranks_with_any_range():
    np.testing.assert_array_equal(positive_and_score(np.array([1, 0]), np.array([[-30.0], [80.0]]))[1], [-30, 80])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_missing_values_are_counted_and_not_shown(bad):
    for y_true, y_pred, what in [
        ([0, 1, 1], [0.123456, bad, bad], "predictions"),
        ([bad, 1, bad], [0.123456] * 3, "targets"),
    ]:
        with pytest.raises(EvaluationError, match=f"2 of 3 {what} are NaN or infinite") as err:
            true_and_predicted(np.array(y_true), np.array(y_pred))
        assert "0.123" not in str(err.value)


def test_logits_are_not_probabilities():
    for function in (true_and_predicted, class_probabilities):
        with pytest.raises(EvaluationError, match=r"2 of 3 predicted scores lie outside \[0, 1\]") as err:
            function(np.array([0, 1, 1]), np.array([-1.5, 0.5, 4.25]))
        assert err.value.to_do == "define predict() so that it returns probabilities"
        assert "4.25" not in str(err.value)


@pytest.mark.parametrize("function", [class_probabilities, positive_and_score])
def test_columns_that_do_not_sum_to_one_are_not_probabilities(function):
    with pytest.raises(EvaluationError, match="1 of 2 samples do not sum to 1") as err:
        function(np.array([0, 1]), np.array([[0.5, 0.5], [0.5, 0.9]]))
    assert "returns probabilities" in err.value.to_do


@pytest.mark.parametrize("bad", [3, -1, 0.5])
def test_targets_must_be_class_numbers_of_the_columns(bad):
    with pytest.raises(EvaluationError, match="1 of 2 targets are not class numbers from 0 to 2") as err:
        true_and_predicted(np.array([0, bad]), THREE)
    assert "training_data()" in err.value.to_do


def test_segmentation_outputs_are_referred_to_sample_mean():
    for y_true, y_pred in [(np.zeros((2, 3, 4, 4)), np.zeros((2, 3, 4, 4))), (np.zeros((2, 3)), np.zeros((2, 3)))]:
        with pytest.raises(EvaluationError, match="one number a sample") as err:
            true_and_predicted(y_true, y_pred)
        assert "SampleMean" in err.value.to_do


@pytest.mark.parametrize("shape", [(), (4,), (4, 1)])
def test_there_must_be_one_prediction_a_sample(shape):
    with pytest.raises(EvaluationError, match="not one prediction a sample"):
        true_and_predicted(np.zeros(3), np.zeros(shape))


def test_text_is_no_prediction():
    with pytest.raises(EvaluationError, match="predictions are of type <U6, not numbers") as err:
        finite(np.array(["absent"]), "predictions")
    assert "absent" not in str(err.value)
