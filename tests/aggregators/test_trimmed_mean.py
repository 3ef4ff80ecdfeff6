import math

import numpy as np
import pytest
import torch
from scipy.stats import trim_mean

from polyclinic.aggregators import TrimmedMean
from polyclinic.errors import AggregationError, ConfigError


@pytest.mark.parametrize(("number", "fraction"), [(4, 0.25), (5, 0.2), (5, 0.4), (10, 0.1), (10, 0.34), (7, 0.499)])
def test_it_is_scipys_trimmed_mean_of_each_value(number, fraction, next_model):
    rng = np.random.default_rng(number)
    values = rng.standard_normal((number, 12))
    sent = [{"w": torch.tensor(one).reshape(3, 4)} for one in values]
    begin = {"w": torch.zeros(3, 4, dtype=torch.float64)}
    got = next_model(TrimmedMean(fraction), begin, sent, num_samples=list(range(1, number + 1)))
    np.testing.assert_allclose(got["w"].reshape(-1), trim_mean(values, fraction, axis=0), rtol=1e-12)


def test_a_fraction_that_a_computer_rounds_down(next_model):
    assert math.floor(0.29 * 100) == 28
    sent = [{"w": torch.tensor([float(number)])} for number in range(71)] + [{"w": torch.tensor([1e9])}] * 29
    assert next_model(TrimmedMean(0.29), {"w": torch.zeros(1)}, sent)["w"].item() == np.mean(range(29, 71))


@pytest.mark.parametrize("wild", [1e30, -1e30, float("inf"), float("-inf"), float("nan")])
def test_as_many_hostile_nodes_as_are_set_aside_change_little(wild, next_model):
    rng = np.random.default_rng(0)
    sound = torch.tensor(rng.standard_normal((8, 20)), dtype=torch.float32)
    aggregator = TrimmedMean(0.2)
    aggregator.setup({"running_var"})
    sent = [{"w": one, "running_var": one.abs()} for one in sound]
    sent[4:4] = [{"w": torch.full((20,), wild), "running_var": torch.full((20,), wild)}] * 2
    got = next_model(aggregator, {"w": torch.zeros(20), "running_var": torch.ones(20)}, sent)
    for values, name in ((sound, "w"), (sound.abs(), "running_var")):
        low, high = values.min(dim=0).values, values.max(dim=0).values
        assert ((low <= got[name]) & (got[name] <= high)).all()


@pytest.mark.parametrize(("number", "fraction", "trimmed"), [(3, 0.25, 0), (1, 0.49, 0), (9, 0.1, 0)])
def test_a_round_in_which_nothing_would_be_set_aside(number, fraction, trimmed, next_model):
    with pytest.raises(AggregationError) as caught:
        next_model(TrimmedMean(fraction), {"w": torch.zeros(1)}, [{"w": torch.ones(1)}] * number)
    assert caught.value.what == f"TrimmedMean(fraction={fraction}) sets {trimmed} of {number} nodes aside at each end"
    assert "change the fraction or ask more nodes" in caught.value.to_do


def test_a_round_in_which_nothing_would_be_left(next_model):
    with pytest.raises(AggregationError, match=r"sets 1 of 2 nodes aside at each end"):
        next_model(TrimmedMean(0.5 - 1e-12), {"w": torch.zeros(1)}, [{"w": torch.ones(1)}] * 2)


@pytest.mark.parametrize("fraction", [0, 0.5, 0.7, -0.1, math.nan, math.inf, None, "0.1"], ids=repr)
def test_settings_that_are_refused(fraction):
    with pytest.raises(ConfigError, match=r"TrimmedMean needs a finite fraction above 0 and below 0\.5") as caught:
        TrimmedMean(fraction)
    assert "fraction=0.25" in caught.value.to_do
