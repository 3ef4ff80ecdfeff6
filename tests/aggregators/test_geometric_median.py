import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from polyclinic.aggregators import GeometricMedian
from polyclinic.errors import AggregationError, ConfigError

COUNTS = [199, 172, 30, 85, 60]
EXACT = {"tolerance": 1e-13, "max_iterations": 10_000}


def objective(point, points, weights):
    return float(np.dot(weights, np.linalg.norm(points - point, axis=1)))


def of_points(points, next_model, **settings):
    """Through a model of two tensors, begun far away."""
    begin = {"a": torch.full((2,), 50.0).double(), "b": torch.full((points.shape[1] - 2,), -50.0).double()}
    sent = [{"a": torch.tensor(one[:2]), "b": torch.tensor(one[2:])} for one in points]
    got = next_model(GeometricMedian(**settings), begin, sent, num_samples=COUNTS[: len(points)])
    return np.concatenate([got["a"], got["b"]])


@pytest.mark.parametrize("weights", ["uniform", "num_samples"])
@pytest.mark.parametrize("number", [3, 4, 5])
def test_it_is_the_minimum_that_scipy_finds(weights, number, next_model):
    points = np.random.default_rng(number).standard_normal((number, 5))
    by = COUNTS[:number] if weights == "num_samples" else [1] * number
    by = np.array(by) / np.sum(by)
    found = minimize(
        objective,
        points.mean(axis=0),
        args=(points, by),
        method="Nelder-Mead",
        options={"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-10, "fatol": 1e-14},
    )
    got = of_points(points, next_model, weights=weights, **EXACT)
    # Where the median is one of the nodes, as with three nodes by samples, smoothing leaves it that far away.
    assert objective(got, points, by) <= found.fun + 1e-6
    np.testing.assert_allclose(got, found.x, atol=1e-4)
    # The defaults come close enough for training.
    assert objective(of_points(points, next_model, weights=weights), points, by) <= found.fun * (1 + 1e-5)


def test_the_corners_of_a_square_have_their_median_in_the_middle(next_model):
    points = np.array([[0.0, 0, 0], [1, 1, 0], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_allclose(of_points(points, next_model), [0.5, 0.5, 0], atol=1e-9)


def test_a_node_that_is_its_own_median(next_model):
    # The pulls of four corners cancel out at the fifth node.
    points = np.array([[3.0, 1, 0], [-3, -1, 0], [0, 1, 2], [0, -1, -2], [0, 0, 0]])
    np.testing.assert_allclose(of_points(points, next_model, **EXACT), [0, 0, 0], atol=1e-6)


def test_it_leaves_a_node_at_which_it_begins_but_which_is_no_median(next_model):
    # Each value's median is that of the first node; the pulls of the other two do not cancel out there.
    points = np.array([[0.0, 0, 0], [1, -0.1, 0], [-0.1, 1, 0]])
    got = of_points(points, next_model, **EXACT)
    by = [1 / 3] * 3
    found = minimize(
        objective, [0.2, 0.2, 0.0], args=(points, by), method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-14}
    )
    assert found.fun < objective(points[0], points, by) - 1e-3
    assert objective(got, points, by) <= found.fun + 1e-8


@pytest.mark.parametrize("wild", [1e6, 1e30, -1e30, 1e200, math.inf, math.nan])
def test_hostile_nodes_below_half_pull_no_more_than_near_ones(wild, next_model):
    sound = np.random.default_rng(0).standard_normal((3, 10))
    points = np.concatenate([np.full((2, 10), wild), sound])
    got = of_points(points, next_model, max_iterations=1000)
    assert np.linalg.norm(got - sound.mean(axis=0)) < 2 * np.linalg.norm(sound - sound.mean(axis=0), axis=1).max()
    if abs(wild) == 1e30:
        # Where it sends it from does not matter once it is far.
        far = np.concatenate([np.full((2, 10), math.copysign(1e9, wild)), sound])
        np.testing.assert_allclose(got, of_points(far, next_model), atol=1e-5)
    elif wild != 1e6:
        # What is not finite, or whose square is not, takes no part.
        np.testing.assert_allclose(got, of_points(sound, next_model, max_iterations=1000), atol=1e-6)


def test_a_node_does_not_count_more_by_claiming_more_samples(next_model):
    begin, sent = {"w": torch.zeros(2)}, [{"w": torch.tensor(w)} for w in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0])]
    honest = next_model(GeometricMedian(), begin, sent)["w"]
    assert torch.equal(next_model(GeometricMedian(), begin, sent, num_samples=[1, 10**9, 1])["w"], honest)
    by_samples = next_model(GeometricMedian(weights="num_samples"), begin, sent, num_samples=[1, 10**9, 1])["w"]
    torch.testing.assert_close(by_samples, sent[1]["w"], atol=1e-4, rtol=0)


def test_statistics_take_their_own_median(next_model):
    aggregator = GeometricMedian()
    aggregator.setup({"running_var", "n"})
    begin = {"w": torch.zeros(1), "running_var": torch.ones(1), "n": torch.tensor(0)}
    sent = [
        {"w": torch.tensor([1.0]), "running_var": torch.tensor([v]), "n": torch.tensor(n)}
        for v, n in ((0.5, 5), (1e30, 10**9), (0.25, 6))
    ]
    got = next_model(aggregator, begin, sent)
    assert (got["w"].item(), got["running_var"].item(), got["n"].item()) == (1, 0.5, 6)


def test_one_pass_is_one_step_of_weiszfeld_from_the_median(next_model):
    points = np.random.default_rng(2).standard_normal((5, 4))
    pull = 1 / np.linalg.norm(points - np.median(points, axis=0), axis=1)
    np.testing.assert_allclose(of_points(points, next_model, max_iterations=1), pull @ points / pull.sum(), rtol=1e-12)


def test_a_round_of_which_nothing_is_finite(next_model):
    sent = [{"w": torch.tensor([value, 1.0])} for value in (math.nan, math.inf)]
    with pytest.raises(AggregationError, match="no node sent finite parameters") as caught:
        next_model(GeometricMedian(), {"w": torch.zeros(2)}, sent)
    assert caught.value.to_do == "lower the nodes' learning rate"


@pytest.mark.parametrize(
    "bad",
    [
        {"smoothing": 0},
        {"smoothing": math.nan},
        {"tolerance": -1e-9},
        {"tolerance": math.inf},
        {"max_iterations": 0},
        {"max_iterations": 2.5},
        {"max_iterations": None},
    ],
    ids=str,
)
def test_settings_that_are_refused(bad):
    (name,) = bad
    with pytest.raises(ConfigError, match=rf"GeometricMedian needs a (whole|finite) {name}") as caught:
        GeometricMedian(**bad)
    assert f"{name}=" in caught.value.to_do
    with pytest.raises(ConfigError, match="unknown weights 'x'"):
        GeometricMedian(weights="x")
