"""Ditto: the global model is that of averaging, and a node's own is that of a loop written out by hand."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polyclinic import Ditto, Experiment, FedAverage, InProcessFederation, TorchTrainingPlan, simulate
from polyclinic.aggregators import make_local_rule
from polyclinic.errors import ConfigError
from polyclinic.federation.places import create_nodes
from polyclinic.messages.requests import LocalRule


class Momentum(TorchTrainingPlan):
    """Moments and running statistics: what the two models of a node must not share."""

    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)).double()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    def training_step(self, x, y):
        return F.mse_loss(self.model(x), y)


class Masks(Momentum):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 1)).double()
        self.optimizer = torch.optim.Adam(self.parameters(), lr=0.05)


@pytest.mark.parametrize("args", [{}, {"optimizer_state": "kept"}, {"buffers": "local"}], ids=str)
@pytest.mark.parametrize("plan", [Momentum, Masks], ids=lambda plan: plan.__name__)
def test_the_global_model_is_that_of_averaging(run, plan, args):
    args = {"batch_size": 7, "num_updates": 5} | args
    one = run(Ditto(0.5), 3, plan=plan, training_args=args).model().state_dict()
    other = run(FedAverage(), 3, plan=plan, training_args=args).model().state_dict()
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())


def steps(net, table, *, lam=0.0, held=None):
    """Five steps on all rows."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    x, y = table.tensors
    for _ in range(5):
        optimizer.zero_grad()
        loss = F.mse_loss(net(x), y)
        if held is not None:
            loss = loss + lam / 2 * sum((p - held[name]).square().sum() for name, p in net.named_parameters())
        loss.backward()
        optimizer.step()


def by_hand(data, net, lam, rounds):
    """The global model and each node's own, as torch modules."""
    total = sum(map(len, data.values()))
    personal = {name: copy.deepcopy(net).train() for name in data}
    world = copy.deepcopy(net.state_dict())
    for _ in range(rounds):
        sums = {key: torch.zeros_like(t, dtype=torch.float64) for key, t in world.items()}
        for name, table in data.items():
            net.load_state_dict(world)
            net.train()
            steps(net, table)
            for key, t in net.state_dict().items():
                sums[key] += len(table) / total * t
            steps(personal[name], table, lam=lam, held=world)
        world = {key: t.to(world[key].dtype) for key, t in sums.items()}
    net.load_state_dict(world)
    return net, personal


def judge(net, table):
    x, y = table.tensors
    with torch.inference_mode():
        return F.mse_loss(net.eval()(x), y).item()


@pytest.mark.parametrize("lam", [0.0, 0.5, 3.0])
def test_a_nodes_own_model_is_the_loop_by_hand(quadratics, run, lam):
    data = {name: (table, table) for name, table in quadratics.data.items()}
    federation = quadratics.spied(simulate(data))
    experiment = run(Ditto(lam), 0, plan=Momentum, federation=federation)
    world, personal = by_hand(quadratics.data, experiment.model(), lam, rounds=3)
    experiment.run(rounds=3)
    own, shared = experiment.evaluate(metrics=["mse"]), experiment.evaluate(metrics=["mse"], personal=False)
    for name, table in quadratics.data.items():
        assert own.nodes[name]["mse"].value == pytest.approx(judge(personal[name], table), rel=1e-9)
        assert shared.nodes[name]["mse"].value == pytest.approx(judge(world, table), rel=1e-9)
        assert own.nodes[name]["mse"].value < shared.nodes[name]["mse"].value - 1e-3
    # Nothing more than the model is sent.
    assert federation.sent == {f"model.{name}" for name in world.state_dict()}


def test_the_loss_that_is_reported_is_the_global_models(run):
    ours, theirs = (run(a, 3, plan=Momentum).records[-1].rows for a in (Ditto(0.5), FedAverage()))
    assert [row.value for row in ours] == [row.value for row in theirs]


def test_fine_tuning_goes_on_from_the_nodes_own_model(quadratics, run):
    data = {name: (table, table) for name, table in quadratics.data.items()}
    experiment = run(Ditto(1.0), 2, plan=Momentum, federation=simulate(data))
    plain = experiment.evaluate(metrics=["mse"]).pooled["mse"].value
    tuned = experiment.evaluate(metrics=["mse"], fine_tune=5).pooled["mse"].value
    shared = experiment.evaluate(metrics=["mse"], personal=False, fine_tune=5).pooled["mse"].value
    assert tuned < plain
    assert tuned != shared
    assert experiment.evaluate(metrics=["mse"]).pooled["mse"].value == plain  # and is forgotten


def test_a_node_that_is_restarted_goes_on_with_its_model(tmp_path):
    create_nodes(tmp_path / "nodes", "fed_heart_disease")

    def run(folder, restart):
        experiment = Experiment(
            Heart,
            training_args={"batch_size": 16, "num_updates": 3},
            federation=InProcessFederation.at(tmp_path / "nodes"),
            folder=folder,
            aggregator=Ditto(0.1),
            round_limit=3,
            observers=[],
        )
        experiment.run(rounds=2)
        if restart:
            federation = InProcessFederation.at(tmp_path / "nodes")
            experiment = Experiment.load(folder, federation=federation, observers=[])
        experiment.run()
        evaluation = experiment.evaluate(metrics=["loss"])
        assert not any(record.notes for record in experiment.records)
        return {name: estimates["loss"].value for name, estimates in evaluation.nodes.items()}

    assert run(tmp_path / "one", restart=False) == run(tmp_path / "two", restart=True)


class Heart(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(13, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.05)

    def training_step(self, x, y):
        return F.binary_cross_entropy_with_logits(self.model(x), y)


@pytest.mark.parametrize("lam", [-1.0, float("nan"), "1"], ids=repr)
def test_a_bad_lam(lam):
    with pytest.raises(ConfigError, match="Ditto needs a finite lam of at least 0"):
        Ditto(lam)


def test_numbers_of_another_version():
    with pytest.raises(ConfigError, match="the local rule 'ditto' came without lam"):
        make_local_rule(LocalRule(name="ditto"))
