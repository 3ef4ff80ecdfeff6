"""FedDyn against a loop written out by hand, and against the optimum that it must reach."""

import pytest
import torch

from polyclinic import FedAverage, FedDyn, simulate
from polyclinic.aggregators import make_local_rule
from polyclinic.aggregators.aggregator import LocalRound
from polyclinic.errors import ConfigError
from polyclinic.messages.requests import LocalRule


def weight(experiment):
    return experiment.model().weight.detach()


def by_hand(quadratics, w, *, rounds, steps, alpha, weights):
    """The paper's algorithm 1 with all nodes in each round, and a mean that is weighted."""
    shares, lr = quadratics.shares(weights), quadratics.lr
    gradients, h = dict.fromkeys(shares, torch.zeros_like(w)), torch.zeros_like(w)
    for _ in range(rounds):
        thetas = {}
        for name in shares:
            theta = w
            for _ in range(steps):
                theta = theta - lr * (quadratics.gradient(name, theta) - gradients[name] + alpha * (theta - w))
            gradients[name] = gradients[name] - alpha * (theta - w)
            thetas[name] = theta
        h = h - alpha * sum(shares[name] * (thetas[name] - w) for name in shares)
        w = sum(shares[name] * thetas[name] for name in shares) - h / alpha
    return w


@pytest.mark.parametrize("alpha", [0.1, 1.0])
@pytest.mark.parametrize("weights", ["num_samples", "uniform"])
def test_rounds_are_the_loop_by_hand(quadratics, run, alpha, weights):
    begin = weight(run(FedAverage(), 0))
    found = weight(run(FedDyn(alpha, weights=weights), 4))
    expected = by_hand(quadratics, begin, rounds=4, steps=5, alpha=alpha, weights=weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    other = by_hand(quadratics, begin, rounds=4, steps=5, alpha=1.1 * alpha, weights=weights)
    assert (found - other).abs().max() > 1e-4


FAST = {"training_args": {"batch_size": 100, "num_updates": 4, "lr": 0.1}}


def distance(experiment, optimum):
    return (weight(experiment) - optimum).abs().max().item()


@pytest.mark.parametrize("weights", ["num_samples", "uniform"])
def test_it_reaches_the_optimum_and_averaging_does_not(quadratics, run, weights):
    optimum = quadratics.optimum(weights)
    assert distance(run(FedDyn(2.0, weights=weights), 25, **FAST), optimum) < 1e-3
    assert distance(run(FedAverage(weights=weights), 10, **FAST), optimum) > 0.05


def test_unequal_numbers_of_steps_do_not_move_the_limit(quadratics, run):
    # Copies of one row: each batch has the node's whole gradient, and cedar takes 2 steps where birch takes 7.
    for table in quadratics.data.values():
        table.tensors = tuple(t[:1].expand_as(t).clone() for t in table.tensors)
    args = {"training_args": {"batch_size": 4, "epochs": 1, "lr": 0.1}, "model_args": {"weight_decay": 0.5}}
    assert distance(run(FedDyn(2.0), 35, **args), quadratics.optimum(decay=0.5)) < 1e-3


def test_a_node_that_misses_rounds_does_not_move_the_limit(quadratics, run):
    federation = quadratics.spied(simulate(quadratics.data))
    federation.fails = {1: "ash", 5: "birch", 6: "cedar"}
    found = run(FedDyn(2.0), 30, federation=federation, min_nodes=2, **FAST)
    assert distance(found, quadratics.optimum()) < 1e-3


def a_round(kept=None, **changes):
    parameter, own = (torch.nn.Parameter(torch.tensor([1.0, 2.0])) for _ in range(2))
    given = {
        "parameters": {"w": parameter, "own": own},
        "sent": {"w": torch.tensor([1.0, 2.0]), "own": torch.zeros(2)},
        "optimizer": torch.optim.SGD([parameter, own], lr=0.1),
        "round": 1,
        "kept": kept or {},
        "local_layers": frozenset({"own"}),
    }
    return parameter, own, LocalRound(**(given | changes))


def test_a_step_and_what_is_kept_of_it():
    parameter, own, local = a_round({"w": torch.tensor([0.5, -0.5])}, round=7, kept_round=2)
    rule = make_local_rule(FedDyn(0.25).local_rule)
    rule.begin(local)
    with torch.no_grad():
        parameter.add_(2.0)  # as steps would
        own.add_(2.0)
    parameter.grad, own.grad = torch.ones(2), torch.ones(2)
    rule.adjust_gradients()
    assert parameter.grad.tolist() == [1 + 0.25 * 2 - 0.5, 1 + 0.25 * 2 + 0.5]
    assert own.grad.tolist() == [1, 1]  # a layer of the node's own is left alone
    assert {name: t.tolist() for name, t in rule.kept().items()} == {"w": [0.5 - 0.25 * 2, -0.5 - 0.25 * 2]}


@pytest.mark.parametrize("alpha", [0, -1.0, float("inf"), None], ids=repr)
def test_a_bad_alpha(alpha):
    with pytest.raises(ConfigError, match="FedDyn needs a finite alpha above 0") as caught:
        FedDyn(alpha)
    assert caught.value.to_do == "write FedDyn(alpha=0.1)"


@pytest.mark.parametrize("numbers", [{}, {"alpha": 1.0, "mu": 1.0}, {"mu": 1.0}], ids=repr)
def test_numbers_of_another_version(numbers):
    with pytest.raises(ConfigError, match="local rule 'fed_dyn'"):
        make_local_rule(LocalRule(name="fed_dyn", numbers=numbers))
