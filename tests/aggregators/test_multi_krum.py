from itertools import combinations

import numpy as np
import pytest
import torch

from polyclinic.aggregators import MultiKrum
from polyclinic.errors import AggregationError, ConfigError


def scores_by_brute_force(points, num_hostile):
    """Each point's smallest sum of squared distances over all choices of n − f − 2 others."""
    n = len(points)
    return [
        min(
            sum(np.sum((points[i] - points[j]) ** 2) for j in others)
            for others in combinations([j for j in range(n) if j != i], n - num_hostile - 2)
        )
        for i in range(n)
    ]


@pytest.mark.parametrize(("number", "num_hostile"), [(3, 0), (5, 1), (7, 2), (8, 1)])
@pytest.mark.parametrize("num_selected", [None, 1, 2])
def test_against_brute_force(number, num_hostile, num_selected, next_model):
    points = np.random.default_rng(number).standard_normal((number, 6))
    chosen = np.argsort(scores_by_brute_force(points, num_hostile))[: num_selected or number - num_hostile]
    sent = [{"a": torch.tensor(one[:2]), "b": torch.tensor(one[2:]).reshape(2, 2)} for one in points]
    begin = {"a": torch.zeros(2).double(), "b": torch.zeros(2, 2).double()}
    aggregator = MultiKrum(num_hostile, num_selected=num_selected)
    got = next_model(aggregator, begin, sent, num_samples=list(range(1, number + 1)))
    expected = points[chosen].mean(axis=0)
    np.testing.assert_allclose(np.concatenate([got["a"], got["b"].reshape(-1)]), expected, rtol=1e-12)


@pytest.mark.parametrize("wild", [1e30, -1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("num_selected", [None, 1])
def test_hostile_nodes_are_left_out_wherever_they_stand(wild, num_selected, next_model):
    sound = np.random.default_rng(0).standard_normal((5, 10))
    aggregator = MultiKrum(2, num_selected=num_selected)
    for first in (0, 3, 5):
        points = np.insert(sound, [first, first], wild, axis=0)
        got = next_model(aggregator, {"w": torch.zeros(10)}, [{"w": torch.tensor(one).float()} for one in points])
        chosen = np.argsort(scores_by_brute_force(sound, 0))[: num_selected or 5]
        np.testing.assert_allclose(got["w"], sound[chosen].mean(axis=0), rtol=1e-5, atol=1e-6)


def test_statistics_take_the_median_whoever_is_chosen(next_model):
    aggregator = MultiKrum(1)
    aggregator.setup({"running_var", "n"})
    begin = {"w": torch.zeros(1), "running_var": torch.ones(1), "n": torch.tensor(0)}
    # The third node's model is the most usual one; its statistics are wild.
    sent = [
        {"w": torch.tensor([w]), "running_var": torch.tensor([v]), "n": torch.tensor(n)}
        for w, v, n in ((0.9, 1.0, 5), (0.95, 2.0, 6), (1.0, 1e30, 10**9), (1.05, 3.0, 7), (9.0, 4.0, 8))
    ]
    got = next_model(aggregator, begin, sent)
    assert got["w"].item() == pytest.approx((0.9 + 0.95 + 1.0 + 1.05) / 4)
    assert got["running_var"].item() == 3
    assert got["n"] == 7


@pytest.mark.parametrize(
    ("number", "settings", "what", "to_do"),
    [
        (2, {"num_hostile": 0}, "MultiKrum(num_hostile=0) needs at least 3 nodes, 2 answered", "lower num_hostile"),
        (6, {"num_hostile": 2}, "MultiKrum(num_hostile=2) needs at least 7 nodes, 6 answered", "lower num_hostile"),
        (
            5,
            {"num_hostile": 1, "num_selected": 5},
            "MultiKrum(num_hostile=1, num_selected=5) would take a hostile one of 5 models",
            "set num_selected to at most 4",
        ),
    ],
)
def test_too_few_nodes(number, settings, what, to_do, next_model):
    with pytest.raises(AggregationError) as caught:
        next_model(MultiKrum(**settings), {"w": torch.zeros(1)}, [{"w": torch.ones(1)}] * number)
    assert caught.value.what == what
    assert to_do in caught.value.to_do


@pytest.mark.parametrize(
    "bad",
    [
        {"num_hostile": -1},
        {"num_hostile": 1.5},
        {"num_hostile": float("nan")},
        {"num_hostile": None},
        {"num_hostile": 1, "num_selected": 0},
        {"num_hostile": 1, "num_selected": 2.5},
    ],
    ids=str,
)
def test_settings_that_are_refused(bad):
    name = list(bad)[-1]
    with pytest.raises(ConfigError, match=rf"MultiKrum needs a (whole|finite) {name}") as caught:
        MultiKrum(**bad)
    assert f"{name}=" in caught.value.to_do
