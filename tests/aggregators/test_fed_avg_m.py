import math

import numpy as np
import pytest
import torch

from polyclinic.aggregators import FedAverage, FedAvgM
from polyclinic.errors import ConfigError

COUNTS = [199, 172, 30, 85]


def updates(seed, dtype=torch.float32):
    rng = np.random.default_rng(seed)
    return [{"w": torch.tensor(rng.standard_normal((3, 4)), dtype=dtype)} for _ in COUNTS]


@pytest.mark.parametrize("weights", ["num_samples", "uniform"])
def test_without_momentum_it_is_federated_averaging(weights, next_model):
    aggregator, plain = FedAvgM(beta=0, weights=weights), FedAverage(weights=weights)
    one = other = {"w": torch.ones(3, 4)}
    for seed in range(3):
        one = next_model(aggregator, one, updates(seed), num_samples=COUNTS)
        other = next_model(plain, other, updates(seed), num_samples=COUNTS)
        torch.testing.assert_close(one["w"], other["w"], rtol=1e-7, atol=1e-8)


def test_it_is_torchs_sgd_with_momentum_on_the_steps(next_model):
    begin = torch.ones(3, 4, dtype=torch.float64)
    parameter = torch.nn.Parameter(begin.clone())
    sgd = torch.optim.SGD([parameter], lr=0.3, momentum=0.7)
    aggregator, got = FedAvgM(beta=0.7, server_lr=0.3), {"w": begin}
    for seed in range(5):
        sent = updates(seed, torch.float64)
        parameter.grad = parameter.detach() - torch.from_numpy(
            np.average([u["w"] for u in sent], axis=0, weights=COUNTS)
        )
        sgd.step()
        got = next_model(aggregator, got, sent, num_samples=COUNTS)
    torch.testing.assert_close(got["w"], parameter.detach(), rtol=1e-12, atol=1e-12)


def test_buffers_have_no_momentum(next_model):
    aggregator = FedAvgM()
    aggregator.setup({"running_var"})
    got = {"w": torch.zeros(1), "running_var": torch.tensor([100.0])}
    for value in (10.0, 1.0, 0.1):
        got = next_model(aggregator, got, [{"w": got["w"] + 1, "running_var": torch.tensor([value])}])
        assert got["running_var"].item() == pytest.approx(value)
    assert got["w"].item() == pytest.approx(1 + 1.9 + 2.71)
    assert set(aggregator.state_dict()) == {"w"}


@pytest.mark.parametrize(
    "bad", [{"beta": 1}, {"beta": -0.1}, {"beta": math.nan}, {"server_lr": 0}, {"server_lr": "1"}], ids=str
)
def test_settings_that_are_refused(bad):
    (name,) = bad
    with pytest.raises(ConfigError, match=f"FedAvgM needs a finite {name} ") as caught:
        FedAvgM(**bad)
    assert f"{name}=" in caught.value.to_do
    with pytest.raises(ConfigError, match="unknown weights 'x'"):
        FedAvgM(weights="x")
