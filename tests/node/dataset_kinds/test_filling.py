import numpy as np
import pytest
from numpy.testing import assert_allclose

from polyclinic.errors import DatasetError
from polyclinic.node.dataset_kinds.filling import fill_missing, standardise

NAN = np.nan
X = np.array([[1.0, NAN, 5.0], [2.0, NAN, 5.0], [6.0, NAN, 5.0], [NAN, 4.0, 9.0]])
TRAIN = np.array([True, True, True, False])


@pytest.mark.parametrize(("rule", "middle"), [("mean", 3.0), ("median", 2.0)])
def test_filled_from_training_rows_alone(rule, middle):
    filled, notes = fill_missing(X, ["a", "b", "c"], TRAIN, {"a": 1, "b": 3}, rule=rule)
    assert filled[3, 0] == middle
    # The one value of "b" is in test: nothing of it may reach the training rows.
    assert filled[:, 1].tolist() == [0, 0, 0, 4]
    assert any("'b'" in note and "0 stands" in note for note in notes)
    assert np.isnan(X).sum() == 4


def test_the_rule_error_names_columns_and_counts():
    with pytest.raises(DatasetError, match=r"'a' \(1\), 'b' \(3\)") as caught:
        fill_missing(X, ["a", "b", "c"], TRAIN, {"a": 1, "b": 3}, rule="error")
    assert "--missing" in caught.value.to_do


def test_scaled_by_training_rows_and_constant_is_zero():
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.normal(50, 9, 40), np.full(40, 0.1)])
    train = np.arange(40) < 30
    x[35, 1] = 7  # constant in training alone
    scaled, notes = standardise(x, ["a", "b"], train)
    assert_allclose(scaled[train, 0].mean(), 0, atol=1e-12)
    assert_allclose(scaled[train, 0].std(), 1, rtol=1e-12)
    assert_allclose(scaled[35, 0], (x[35, 0] - x[:30, 0].mean()) / x[:30, 0].std())
    assert (scaled[:, 1] == 0).all()
    assert notes == ["The same value in every training row, so 0 after scaling: 'b'."]
