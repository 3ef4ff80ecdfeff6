import math

import numpy as np
import pytest
import torch

from polyclinic.aggregators import FedAverage, FedNova
from polyclinic.errors import ConfigError

COUNTS, STEPS = [199, 172, 30, 85], [50, 43, 8, 22]


def random_updates(dtype=torch.float64):
    rng = np.random.default_rng(0)
    return [{"w": torch.tensor(rng.standard_normal((3, 4)), dtype=dtype)} for _ in COUNTS]


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("weights", ["num_samples", "uniform"])
def test_with_equal_steps_it_is_federated_averaging(momentum, weights, next_model):
    begin, sent = {"w": torch.ones(3, 4, dtype=torch.float64)}, random_updates()
    got = next_model(FedNova(momentum=momentum, weights=weights), begin, sent, num_samples=COUNTS, num_updates=[17] * 4)
    expected = next_model(FedAverage(weights=weights), begin, sent, num_samples=COUNTS)
    torch.testing.assert_close(got["w"], expected["w"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("momentum", [0, 0.5, 0.9])
def test_unequal_steps_by_hand(momentum, next_model):
    begin, sent = torch.ones(3, 4, dtype=torch.float64), random_updates()
    # |a|: torch's SGD is asked what a gradient of 1 in each of t steps adds up to, with lr = 1.
    lengths = []
    for steps in STEPS:
        parameter = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        sgd = torch.optim.SGD([parameter], lr=1.0, momentum=momentum)
        for _ in range(steps):
            parameter.grad = torch.ones((), dtype=torch.float64)
            sgd.step()
        lengths.append(-parameter.item())
    p = np.array(COUNTS) / np.sum(COUNTS)
    normalised = sum(pk * (u["w"] - begin) / a for pk, u, a in zip(p, sent, lengths, strict=True))
    expected = begin + float(p @ lengths) * normalised
    got = next_model(FedNova(momentum=momentum), {"w": begin}, sent, num_samples=COUNTS, num_updates=STEPS)
    torch.testing.assert_close(got["w"], expected, rtol=1e-12, atol=1e-12)
    assert (got["w"] - next_model(FedAverage(), {"w": begin}, sent, num_samples=COUNTS)["w"]).abs().max() > 0.05


def local_training(w, optimum, steps, momentum):
    parameter = torch.nn.Parameter(w.clone())
    sgd = torch.optim.SGD([parameter], lr=0.002, momentum=momentum)
    for _ in range(steps):
        parameter.grad = parameter.detach() - optimum
        sgd.step()
    return {"w": parameter.detach()}


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_it_ends_at_the_optimum_of_the_objective_that_was_asked_for(momentum, next_model):
    """Two nodes of equal weight with optima 0 and 1; to the one with ten times the steps, plain averaging is drawn."""
    ends = {}
    for aggregator in (FedNova(momentum=momentum), FedAverage()):
        got = {"w": torch.full((1,), 0.2, dtype=torch.float64)}
        for _ in range(150):
            sent = [local_training(got["w"], centre, steps, momentum) for centre, steps in ((0.0, 2), (1.0, 20))]
            got = next_model(aggregator, got, sent, num_updates=[2, 20])
        ends[type(aggregator)] = got["w"].item()
    assert ends[FedNova] == pytest.approx(0.5, abs=0.08)
    assert ends[FedAverage] > 0.85


def test_buffers_take_the_mean_by_samples(next_model):
    aggregator = FedNova()
    aggregator.setup({"running_var"})
    begin = {"w": torch.zeros(1), "running_var": torch.ones(1), "n": torch.tensor(0)}
    sent = [
        {"w": torch.ones(1), "running_var": torch.tensor([v]), "n": torch.tensor(n)} for v, n in ((0.0, 4), (4.0, 400))
    ]
    got = next_model(aggregator, begin, sent, num_samples=[3, 1], num_updates=[1, 100])
    assert got["running_var"].item() == 1
    assert got["n"] == 103


@pytest.mark.parametrize("momentum", [1, -0.1, math.nan, math.inf, "0.9"], ids=repr)
def test_settings_that_are_refused(momentum):
    with pytest.raises(ConfigError, match="FedNova needs a finite momentum of at least 0 and below 1"):
        FedNova(momentum=momentum)
    with pytest.raises(ConfigError, match="unknown weights 'x'"):
        FedNova(weights="x")
