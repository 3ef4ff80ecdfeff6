"""Scaffold against a loop written out by hand, and against the optimum that it must reach."""

import json

import pytest
import torch
from torch import nn

from polyclinic import FedAverage, Scaffold, TorchTrainingPlan, simulate
from polyclinic.aggregators import make_local_rule
from polyclinic.aggregators.aggregator import LocalRound
from polyclinic.aggregators.scaffold import Correction
from polyclinic.errors import ConfigError
from polyclinic.messages.replies import TrainReply


def weight(experiment):
    return experiment.model().weight.detach()


def by_hand(quadratics, w, *, rounds, steps, server_lr, weights):
    """With the node's last local state u and correction c, as the method is written down without control variates."""
    shares, lr = quadratics.shares(weights), quadratics.lr
    u, c = dict.fromkeys(shares, w), dict.fromkeys(shares, torch.zeros_like(w))
    for _ in range(rounds):
        for name in shares:
            c[name] = c[name] + (w - u[name]) / (server_lr * lr * steps)
            theta = w
            for _ in range(steps):
                theta = theta - lr * (quadratics.gradient(name, theta) - c[name])
            u[name] = server_lr * theta + (1 - server_lr) * w
        w = w + sum(shares[name] * (u[name] - w) for name in shares)
    return w


@pytest.mark.parametrize("server_lr", [1.0, 0.7, 1.3])
@pytest.mark.parametrize("weights", ["num_samples", "uniform"])
def test_rounds_are_the_loop_by_hand(quadratics, run, server_lr, weights):
    begin = weight(run(FedAverage(), 0))
    found = weight(run(Scaffold(server_lr=server_lr, weights=weights), 4))
    expected = by_hand(quadratics, begin, rounds=4, steps=5, server_lr=server_lr, weights=weights)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    other = by_hand(quadratics, begin, rounds=4, steps=5, server_lr=0.9, weights=weights)
    assert (found - other).abs().max() > 1e-3


def test_the_first_round_is_federated_averaging(run):
    assert torch.equal(weight(run(Scaffold(), 1)), weight(run(FedAverage(), 1)))
    assert not torch.equal(weight(run(Scaffold(), 2)), weight(run(FedAverage(), 2)))


def one_step(kept_u, *, round_index=2, kept_round=1, forget=0.0, older=None):
    """One step of SGD in the round after a kept one, T = 1; returns w and theta."""
    w = torch.tensor([1.5, -2.0], dtype=torch.float64)
    parameter = nn.Parameter(w.clone())
    kept = {"u/w": kept_u, "lr": torch.tensor(0.1)} | ({} if older is None else {"c/w": older})
    rule = Correction({"server_lr": 1.0, "num_updates": 1.0, "forget": forget})
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    rule.begin(
        LocalRound(
            parameters={"w": parameter},
            sent={"w": w},
            optimizer=optimizer,
            round=round_index,
            kept=kept,
            kept_round=kept_round,
        )
    )
    (3 * parameter).sum().backward()
    rule.adjust_gradients()
    optimizer.step()
    return w, parameter.detach(), rule.kept()


def test_with_a_last_state_of_0_the_step_differs_by_lr_times_w_over_lr():
    w, theta, kept = one_step(torch.zeros(2, dtype=torch.float64))
    plain = w - 0.1 * 3
    c = w / 0.1
    torch.testing.assert_close(theta - plain, 0.1 * c, rtol=1e-6, atol=0)
    torch.testing.assert_close(kept["c/w"], c, rtol=1e-6, atol=0)
    assert torch.equal(kept["u/w"], theta)


def test_corrections_add_up_until_they_are_void():
    u, older = torch.zeros(2, dtype=torch.float64), torch.tensor([7.0, 7.0], dtype=torch.float64)
    c = one_step(u)[2]["c/w"]
    torch.testing.assert_close(one_step(u, older=older)[2]["c/w"], c + 7)
    torch.testing.assert_close(one_step(u, older=older, forget=1.0)[2]["c/w"], c)


@pytest.mark.parametrize(("round_index", "kept_round"), [(3, 1), (9, 2)])
def test_what_was_kept_before_a_round_that_was_missed_is_void(round_index, kept_round):
    w, theta, kept = one_step(torch.zeros(2, dtype=torch.float64), round_index=round_index, kept_round=kept_round)
    torch.testing.assert_close(theta, w - 0.1 * 3)
    assert "c/w" not in kept


# ---- where it ends


FAST = {"training_args": {"batch_size": 100, "num_updates": 4, "lr": 0.1}}


def distance(experiment, optimum):
    return (weight(experiment) - optimum).abs().max().item()


def test_it_reaches_the_pooled_optimum_and_averaging_does_not(quadratics, run):
    assert distance(run(Scaffold(), 20, **FAST), quadratics.optimum()) < 1e-4
    assert distance(run(FedAverage(), 10, **FAST), quadratics.optimum()) > 0.05


def test_nodes_that_count_alike_reach_the_optimum_of_the_mean_loss(quadratics, run):
    found = run(Scaffold(weights="uniform"), 20, **FAST)
    assert distance(found, quadratics.optimum("uniform")) < 1e-4
    assert distance(found, quadratics.optimum()) > 0.05


def test_weight_decay_is_a_part_of_the_loss(quadratics, run):
    found = run(Scaffold(), 20, model_args={"weight_decay": 0.3}, **FAST)
    assert distance(found, quadratics.optimum(decay=0.3)) < 1e-4
    assert distance(found, quadratics.optimum()) > 0.05


@pytest.mark.parametrize("late", [False, True])
def test_a_node_that_misses_a_round_takes_no_correction_out_of_the_sum(quadratics, run, late):
    def with_a_failure(aggregator):
        federation = quadratics.spied(simulate(quadratics.data))
        federation.fails, federation.late = {5: "birch"}, late
        return run(aggregator, 22, federation=federation, min_nodes=2, **FAST)

    assert distance(with_a_failure(Scaffold()), quadratics.optimum()) < 1e-4

    class NeverForgets(Scaffold):
        @property
        def local_rule(self):
            rule = super().local_rule
            return rule.model_copy(update={"numbers": rule.numbers | {"forget": 0.0}})

    assert distance(with_a_failure(NeverForgets()), quadratics.optimum()) > 0.01


def test_nodes_that_take_unequal_numbers_of_steps(quadratics, run):
    # Copies of one row: each batch has the node's whole gradient, and cedar takes 2 steps where birch takes 7.
    for table in quadratics.data.values():
        table.tensors = tuple(t[:1].expand_as(t).clone() for t in table.tensors)
    args = {"batch_size": 4, "epochs": 1, "lr": 0.1}
    found = run(Scaffold(), 35, training_args=args, model_args={"weight_decay": 0.5})
    assert [r.num_samples for r in found.records[-1].rows] == [10, 25, 6]
    assert distance(found, quadratics.optimum(decay=0.5)) < 1e-4


# ---- what the server keeps


def reply(node_id, value, num_updates=5):
    tensors = {"w": torch.full((2,), value), "running_var": torch.tensor([value])}
    numbers = {"num_samples": 3, "num_updates": num_updates, "loss": 0.0, "seconds": 0.0}
    return TrainReply(request_id="r", node_id=node_id, tensors=tensors, **numbers)


def one_round(aggregator, *replies):
    aggregator.setup({"running_var"})
    aggregator.begin({"w": torch.ones(2), "running_var": torch.tensor([1.0])})
    for one in replies:
        aggregator.add(one)
    return aggregator.finish()


def test_statistics_take_the_mean_however_far_the_model_goes():
    got = one_round(Scaffold(server_lr=3.0), reply("a", 0.0), reply("b", 0.5))
    assert got["w"].tolist() == [1 + 3 * (0.25 - 1)] * 2
    assert got["running_var"].tolist() == [0.25]


def test_nodes_are_told_the_most_steps_and_whether_the_nodes_are_others():
    aggregator = Scaffold()
    assert aggregator.local_rule.numbers == {"server_lr": 1.0, "num_updates": 0.0, "forget": 0.0}
    told = []
    for names in ("ab", "abc", "ac", "ac", "b"):
        one_round(aggregator, *(reply(name, 1.0, 5 + ord(name) - ord("a")) for name in names))
        numbers = aggregator.local_rule.numbers
        told.append((numbers["num_updates"], numbers["forget"]))
    assert told == [(6, 0), (7, 1), (7, 1), (7, 0), (6, 1)]
    again = Scaffold()
    again.load_state_dict(aggregator.state_dict())
    assert again.local_rule == aggregator.local_rule
    one_round(again, reply("b", 1.0))
    assert again.local_rule.numbers == {"server_lr": 1.0, "num_updates": 5.0, "forget": 0.0}


def test_a_round_that_failed_changes_nothing():
    aggregator = Scaffold()
    one_round(aggregator, reply("a", 1.0), reply("b", 1.0))
    before = aggregator.local_rule
    aggregator.begin({"w": torch.ones(2), "running_var": torch.tensor([1.0])})
    aggregator.add(reply("a", 1.0, 99))
    assert aggregator.local_rule == before


# ---- what it does not work with


class Adam(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(3, 1).double()
        self.optimizer = torch.optim.Adam(self.parameters())

    def training_step(self, x, y):
        return (self.model(x) - y).square().mean()


def test_a_check_says_that_the_optimizer_does_not_fit(run, capsys):
    experiment = run(Scaffold(), 0, plan=Adam)
    report = experiment.check()
    assert not report
    (detail,) = {detail for _, _, ok, detail in report.rows if not ok}
    assert detail.startswith(
        "Scaffold needs torch.optim.SGD, the plan has Adam. write self.optimizer = torch.optim.SGD"
    )
    assert run(FedAverage(), 0, plan=Adam).check()


W = nn.Parameter(torch.ones(1))
V = nn.Parameter(torch.ones(1))


@pytest.mark.parametrize(
    ("optimizer", "what"),
    [
        (torch.optim.SGD([W], lr=0.1, momentum=0.9), "Scaffold needs plain SGD, the plan's has momentum"),
        (torch.optim.SGD([W], lr=0.1, maximize=True), "Scaffold needs plain SGD, the plan's has maximize"),
        (torch.optim.AdamW([W]), "Scaffold needs torch.optim.SGD, the plan has AdamW"),
        (
            torch.optim.SGD([{"params": [W], "lr": 0.1}, {"params": [V], "lr": 0.01}]),
            "Scaffold needs one learning rate, the plan's optimizer has 0.01, 0.1",
        ),
    ],
    ids=["momentum", "maximize", "AdamW", "two rates"],
)
def test_optimizers_whose_steps_are_no_gradients(optimizer, what):
    rule = make_local_rule(Scaffold().local_rule)
    with pytest.raises(ConfigError) as caught:
        rule.begin(LocalRound(parameters={"w": W}, sent={"w": torch.ones(1)}, optimizer=optimizer, round=1))
    assert caught.value.what == what
    assert caught.value.to_do


@pytest.mark.parametrize("server_lr", [0, -1.0, float("nan"), "1"], ids=repr)
def test_a_bad_server_lr(server_lr):
    with pytest.raises(ConfigError, match="Scaffold needs a finite server_lr above 0"):
        Scaffold(server_lr=server_lr)


@pytest.mark.parametrize(
    "numbers", [{}, {"server_lr": 1.0}, {"server_lr": 1.0, "num_updates": 1, "x": 1}], ids=json.dumps
)
def test_numbers_of_another_version(numbers):
    with pytest.raises(ConfigError, match="local rule 'scaffold'"):
        Correction(numbers)
