import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from polyclinic.aggregators import FedAverage, FedProx
from polyclinic.aggregators.aggregator import LocalRound
from polyclinic.aggregators.fed_prox import ProximalTerm
from polyclinic.errors import ConfigError


def network(dtype=torch.float64):
    torch_rng = torch.Generator().manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).to(dtype)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=torch_rng, dtype=torch.float64))
    return net


def local_round(parameters, sent, optimizer=None):
    optimizer = optimizer or torch.optim.SGD(parameters.values(), lr=0.1)
    return LocalRound(parameters=parameters, sent=sent, optimizer=optimizer, round=1)


def batches(dtype=torch.float64):
    rng = np.random.default_rng(7)
    return [(torch.tensor(rng.standard_normal((6, 4)), dtype=dtype), torch.ones(6, 1, dtype=dtype)) for _ in range(5)]


def train(net, mu, *, by_rule, dtype=torch.float64, **optimizer_settings):
    """Five steps of SGD: with our rule, or with the proximal term written into the loss and left to autograd."""
    start = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, **optimizer_settings)
    rule = ProximalTerm({"mu": mu})
    rule.begin(local_round(dict(net.named_parameters()), start, optimizer))
    for x, y in batches(dtype):
        loss = F.binary_cross_entropy_with_logits(net(x), y)
        if not by_rule:
            loss = loss + mu / 2 * sum((p - start[name]).square().sum() for name, p in net.named_parameters())
        optimizer.zero_grad()
        loss.backward()
        if by_rule:
            rule.adjust_gradients()
        optimizer.step()
    return torch.cat([p.detach().reshape(-1) for p in net.parameters()])


@pytest.mark.parametrize("mu", [0.01, 1.0, 7.5])
@pytest.mark.parametrize("settings", [{}, {"momentum": 0.9}, {"weight_decay": 0.1}], ids=str)
def test_the_rule_is_the_gradient_of_the_proximal_term(mu, settings):
    by_rule = train(network(), mu, by_rule=True, **settings)
    by_autograd = train(network(), mu, by_rule=False, **settings)
    torch.testing.assert_close(by_rule, by_autograd, rtol=1e-12, atol=1e-12)
    # The term matters, or the comparison would say nothing.
    assert (by_rule - train(network(), 0.0, by_rule=True, **settings)).abs().max() > 1e-4


def test_the_rule_in_float32():
    by_rule, by_autograd = (train(network(torch.float32), 1.0, by_rule=b, dtype=torch.float32) for b in (True, False))
    torch.testing.assert_close(by_rule, by_autograd, rtol=1e-6, atol=1e-6)


def test_mu_0_leaves_gradients_untouched_to_the_bit():
    # -0.0 + 0.0 is 0.0, and NaN times 0 is NaN: even adding nothing would show.
    parameter = torch.nn.Parameter(torch.tensor([1.0, math.inf]))
    parameter.grad = torch.tensor([-0.0, 3.0])
    rule = ProximalTerm({"mu": 0})
    rule.begin(local_round({"w": parameter}, {"w": torch.zeros(2)}))
    rule.adjust_gradients()
    assert parameter.grad.tolist() == [0.0, 3.0]
    assert math.copysign(1, parameter.grad[0].item()) == -1


def test_a_parameter_without_a_gradient_is_left_alone():
    used, unused = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    used.grad = torch.zeros(1)
    rule = ProximalTerm({"mu": 0.5})
    rule.begin(local_round({"used": used, "unused": unused}, {"used": torch.zeros(1), "unused": torch.zeros(1)}))
    rule.adjust_gradients()
    assert used.grad.tolist() == [0.5]
    assert unused.grad is None


@pytest.mark.parametrize("mu", [-0.1, math.nan, math.inf, "0.1", None, [1]], ids=repr)
def test_a_bad_mu_is_refused(mu):
    with pytest.raises(ConfigError, match="FedProx needs a finite mu of at least 0") as caught:
        FedProx(mu=mu)
    assert caught.value.to_do == "write FedProx(mu=0.01)"


@pytest.mark.parametrize("numbers", [{}, {"nu": 1.0}, {"mu": 1.0, "nu": 1.0}], ids=repr)
def test_numbers_of_another_rule_are_refused(numbers):
    with pytest.raises(ConfigError, match="FedProx needs a finite mu"):
        ProximalTerm(numbers)


def test_numbers_of_numpy_are_numbers():
    assert FedProx(np.float32(0.5)).settings == {"mu": 0.5, "weights": "num_samples"}
    assert FedProx(1).local_rule.numbers == {"mu": 1.0}


def test_it_averages_as_fed_average():
    aggregator = FedProx(0.1, weights="uniform")
    assert isinstance(aggregator, FedAverage)
    assert aggregator.weights == "uniform"
    assert (aggregator.local_rule.name, aggregator.local_rule.numbers) == ("proximal", {"mu": 0.1})
    with pytest.raises(ConfigError, match="unknown weights 'x'"):
        FedProx(0.1, weights="x")


def test_a_layer_of_the_nodes_own_is_not_held():
    shared, own = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    rule = ProximalTerm({"mu": 1.0})
    rule.begin(
        LocalRound(
            parameters={"shared": shared, "own": own},
            sent={"shared": torch.zeros(2), "own": torch.zeros(2)},
            optimizer=torch.optim.SGD([shared, own], lr=0.1),
            round=1,
            local_layers=frozenset({"own"}),
        )
    )
    (shared.sum() + own.sum()).backward()
    rule.adjust_gradients()
    assert shared.grad.tolist() == [2, 2]
    assert own.grad.tolist() == [1, 1]
