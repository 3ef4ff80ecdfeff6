import numpy as np
import pytest
import torch

from polyclinic.aggregators import CoordinateMedian


@pytest.mark.parametrize("number", [1, 2, 5, 6])
def test_it_is_numpys_median_of_each_value(number, next_model):
    rng = np.random.default_rng(number)
    sent = [
        {"w": torch.tensor(rng.standard_normal((3, 4))), "n": torch.tensor(rng.integers(100))} for _ in range(number)
    ]
    begin = {"w": torch.zeros(3, 4, dtype=torch.float64), "n": torch.tensor(0)}
    got = next_model(CoordinateMedian(), begin, sent, num_samples=list(range(1, number + 1)))
    np.testing.assert_array_equal(got["w"], np.median([one["w"] for one in sent], axis=0))
    assert got["n"] == round(float(np.median([one["n"] for one in sent])))


@pytest.mark.parametrize("wild", [1e30, -1e30, float("inf"), float("nan")])
def test_hostile_nodes_below_half_do_not_carry_it_out_of_what_sound_nodes_sent(wild, next_model):
    rng = np.random.default_rng(0)
    sound = torch.tensor(rng.standard_normal((3, 20)), dtype=torch.float32)
    aggregator = CoordinateMedian()
    aggregator.setup({"running_var"})
    sent = [{"w": one, "running_var": one.abs()} for one in sound]
    sent += [{"w": torch.full((20,), wild), "running_var": torch.full((20,), wild)}] * 2
    got = next_model(
        aggregator, {"w": torch.zeros(20), "running_var": torch.ones(20)}, sent, num_samples=[1, 1, 1, 10**9, 10**9]
    )
    for values, name in ((sound, "w"), (sound.abs(), "running_var")):
        low, high = values.min(dim=0).values, values.max(dim=0).values
        assert ((low <= got[name]) & (got[name] <= high)).all()
