"""FedRep against a loop written out by hand: heads that stay, and a body that is shared."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polyclinic import FedAverage, FedRep, TorchTrainingPlan, simulate
from polyclinic.aggregators import make_local_rule
from polyclinic.aggregators.aggregator import LocalRound
from polyclinic.errors import ConfigError
from polyclinic.messages.requests import LocalRule


class TwoParts(TorchTrainingPlan):
    """With weight decay and momentum, which must not move what is frozen."""

    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Sequential()
        self.model.add_module("body", nn.Linear(3, 4))
        self.model.add_module("tanh", nn.Tanh())
        self.model.add_module("head", nn.Linear(4, 1))
        self.model.double()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.5, weight_decay=0.1)

    def training_step(self, x, y):
        return F.mse_loss(self.model(x), y)


HEAD = {"model.head.weight", "model.head.bias"}


def train(net, optimizer, part, table, steps):
    """Steps on all rows, of one part of the net only."""
    x, y = table.tensors
    for _ in range(steps):
        net.zero_grad()
        F.mse_loss(net(x), y).backward()
        for name, parameter in net.named_parameters():
            if not name.startswith(part):
                parameter.grad = None
        optimizer.step()


def by_hand(data, net, *, rounds, head_passes, steps=5):
    sizes = {name: len(table) for name, table in data.items()}
    heads = {name: copy.deepcopy(net.head.state_dict()) for name in data}
    body = copy.deepcopy(net.body.state_dict())
    for _ in range(rounds):
        sums = {key: torch.zeros_like(t) for key, t in body.items()}
        for name, table in data.items():
            net.body.load_state_dict(body)
            net.head.load_state_dict(heads[name])
            optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.5, weight_decay=0.1)
            train(net, optimizer, "head", table, head_passes * steps)
            train(net, optimizer, "body", table, steps)
            heads[name] = copy.deepcopy(net.head.state_dict())
            for key, t in net.body.state_dict().items():
                sums[key] += sizes[name] / sum(sizes.values()) * t
        body = sums
    return body, heads


@pytest.mark.parametrize("head_passes", [1, 3])
def test_rounds_are_the_loop_by_hand(quadratics, run, head_passes):
    federation = quadratics.spied(simulate(quadratics.data))
    aggregator = FedRep(["model.head"], head_passes=head_passes)
    experiment = run(aggregator, 0, plan=TwoParts, federation=federation)
    body, heads = by_hand(quadratics.data, experiment.model(), rounds=3, head_passes=head_passes)
    initial = experiment.model().head.state_dict()
    experiment.run(rounds=3)
    for key, tensor in body.items():
        torch.testing.assert_close(experiment.model().body.state_dict()[key], tensor, rtol=1e-12, atol=1e-12)
    for node in federation.inner.each_node():
        own = node._kept(experiment.evaluate_request()).load(before=4).part("local")
        assert own.keys() == HEAD
        for key, tensor in heads[node.node_id].items():
            torch.testing.assert_close(own[f"model.head.{key}"], tensor, rtol=1e-12, atol=1e-12)
    assert federation.sent == {"model.body.weight", "model.body.bias"}
    # The researcher's model has the head that it began with.
    assert all(torch.equal(experiment.model().head.state_dict()[key], t) for key, t in initial.items())


def test_each_node_judges_the_body_with_its_own_head(quadratics, run):
    data = {name: (table, table) for name, table in quadratics.data.items()}
    experiment = run(FedRep(["model.head"]), 3, plan=TwoParts, federation=simulate(data))
    net = experiment.model()
    _, heads = by_hand(quadratics.data, run(FedAverage(), 0, plan=TwoParts).model(), rounds=3, head_passes=1)
    for name, estimates in experiment.evaluate(metrics=["mse"]).nodes.items():
        net.head.load_state_dict(heads[name])
        x, y = quadratics.data[name].tensors
        assert estimates["mse"].value == pytest.approx(F.mse_loss(net(x), y).item(), rel=1e-9)


def test_the_report_is_of_the_pass_that_trains_the_body(run):
    (row, *_) = run(FedRep(["model.head"], head_passes=4), 1, plan=TwoParts).records[1].rows
    assert row.metric == "loss"
    alone = run(FedAverage(), 1, plan=TwoParts).records[1].rows[0]
    assert row.value < alone.value  # the head was trained already


def test_what_the_author_froze_stays_frozen():
    first, frozen, head = (nn.Parameter(torch.ones(1)) for _ in range(3))
    frozen.requires_grad_(False)
    parameters = {"first": first, "frozen": frozen, "head": head}
    rule = make_local_rule(FedRep(["head"], head_passes=2).local_rule)
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    sent = {name: torch.ones(1) for name in parameters}
    rule.begin(
        LocalRound(parameters=parameters, sent=sent, optimizer=optimizer, round=1, local_layers=frozenset({"head"}))
    )
    assert rule.passes == ("head", "head", "train")
    seen = []
    for name in rule.passes:
        rule.begin_pass(name)
        seen.append([n for n, p in parameters.items() if p.requires_grad])
        rule.end_pass(name, 1)
    assert seen == [["head"], ["head"], ["first"]]
    assert [p.requires_grad for p in parameters.values()] == [True, False, True]


@pytest.mark.parametrize(("local", "part"), [(["frozen"], "the head"), (["a", "b"], "the body")])
def test_a_part_without_parameters_to_train(local, part):
    parameters = {name: nn.Parameter(torch.ones(1)) for name in ("a", "b", "frozen")}
    parameters["frozen"].requires_grad_(False)
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    rule = make_local_rule(FedRep(["x"]).local_rule)
    with pytest.raises(ConfigError, match=f"FedRep: {part} has no parameters to train"):
        rule.begin(
            LocalRound(parameters=parameters, sent={}, optimizer=optimizer, round=1, local_layers=frozenset(local))
        )


@pytest.mark.parametrize(
    ("settings", "what", "to_do"),
    [
        ({"head": "model.head"}, "FedRep: head is a list of layers, got 'model.head'", 'write FedRep(["model.head"])'),
        ({"head": []}, "FedRep: head is a list of layers, got []", 'write FedRep(["model.head"])'),
        ({"head": ["h"], "head_passes": 0}, "FedRep needs a", "write FedRep(head_passes=1)"),
        ({"head": ["h"], "head_passes": 1.5}, "FedRep needs a whole head_passes, got 1.5", "head_passes=1"),
    ],
)
def test_bad_settings(settings, what, to_do):
    with pytest.raises(ConfigError) as caught:
        FedRep(**settings)
    assert what in caught.value.what
    assert to_do in caught.value.to_do


def test_a_head_that_the_plan_has_not(run):
    with pytest.raises(ConfigError, match=r"no layer of the plan fits 'model.hed'"):
        run(FedRep(["model.hed"]), 1, plan=TwoParts)
    with pytest.raises(ConfigError, match="all layers are local"):
        run(FedRep(["model"]), 1, plan=TwoParts)


def test_numbers_of_another_version():
    with pytest.raises(ConfigError, match="the local rule 'head_first' came without head_passes"):
        make_local_rule(LocalRule(name="head_first"))
