"""The same program gives the same model, bit for bit: wherever the nodes work, and whoever answers first.

What that model is, is said by programs in plain PyTorch that know nothing of nodes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from polyclinic import (
    Aggregator,
    Experiment,
    FedAverage,
    Federation,
    FedProx,
    InProcessFederation,
    ProcessFederation,
    TorchTrainingPlan,
    simulate,
)
from polyclinic.datasets.fed_heart_disease import Baseline, BaselineLoss, Optimizer
from polyclinic.federation.federation import NodeInfo
from polyclinic.federation.places import create_nodes
from polyclinic.messages.replies import Reply
from polyclinic.messages.requests import Request, SearchRequest
from polyclinic.randomness import derive, seeded

State = dict[str, torch.Tensor]


class HeartPlan(TorchTrainingPlan):
    """The baseline: logistic regression with Adam."""

    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = Baseline()
        self.loss = BaselineLoss()
        self.optimizer = Optimizer(self.parameters())

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.loss(self.model(x), y)


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(13, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 1))


class DeepPlan(TorchTrainingPlan):
    """With all that a node must take care of: running statistics, a counter, random masks, an optimizer's moments."""

    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = network()
        optimizer = getattr(torch.optim, model_args["optimizer"])
        self.optimizer = optimizer(self.parameters(), lr=0.01)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y)


class LinearPlan(TorchTrainingPlan):
    """A linear model in the precision that is asked for."""

    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = nn.Sequential(nn.Linear(13, 5), nn.Tanh(), nn.Linear(5, 1))
        self.to(getattr(torch, model_args["dtype"]))
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.5)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (self.model(x) - y).square().mean()


PLANS: dict[str, tuple[type, dict[str, Any]]] = {
    "baseline": (HeartPlan, {"training_args": {"batch_size": 4, "num_updates": 30}}),
    "kept": (
        DeepPlan,
        {
            "model_args": {"optimizer": "Adam"},
            "training_args": {"batch_size": 16, "epochs": 1, "optimizer_state": "kept"},
        },
    ),
}


def trained(plan: str | type, federation: Federation, folder: Path, **settings: Any) -> State:
    """The global model at the end."""
    if isinstance(plan, str):
        plan, fixed = PLANS[plan]
        settings = fixed | settings
    settings = {"round_limit": 3, "seed": 11, "observers": []} | settings
    experiment = Experiment(plan, federation=federation, folder=folder, **settings)
    experiment.run()
    return state_of(experiment)


def state_of(experiment: Experiment) -> State:
    return dict(experiment.model().state_dict())


def assert_same_bits(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        assert torch.equal(tensor, other[name]), f"{name} differs by {(tensor - other[name]).abs().max()}"


# ---- wherever the nodes work


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("nodes")
    create_nodes(place, "fed_heart_disease")
    return place


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_give_the_same_model_as_this_process(place: Path, tmp_path: Path, workers: int) -> None:
    here, there = InProcessFederation.at(place), ProcessFederation(place, workers)
    for plan in PLANS:
        first = trained(plan, here, tmp_path / f"{plan}-here")
        assert_same_bits(first, trained(plan, there, tmp_path / f"{plan}-there"))
    there.close()


class Shuffled(Federation):
    """Replies of another federation, in any order; as over a network, each owns its tensors."""

    def __init__(self, inner: Federation, seed: int) -> None:
        self._inner, self._random = inner, random.Random(seed)
        self.orders: list[tuple[str, ...]] = []

    def nodes(self) -> list[NodeInfo]:
        return self._inner.nodes()

    def send(self, requests: Mapping[str, Request], deadline: float | None = None) -> Iterator[Reply]:
        replies = [
            reply.model_copy(update={"tensors": {name: t.clone() for name, t in reply.tensors.items()}})
            for reply in self._inner.send(requests, deadline)
        ]
        self._random.shuffle(replies)
        if not isinstance(next(iter(requests.values())), SearchRequest):
            self.orders.append(tuple(reply.node_id for reply in replies))
        yield from replies

    def cancel(self, experiment_id: str) -> None:
        self._inner.cancel(experiment_id)


def test_the_order_of_arrival_changes_nothing(tmp_path: Path) -> None:
    # In float64, because there sums are not more precise than the model, and show the order they were made in.
    settings = {"model_args": {"dtype": "float64"}, "training_args": {"batch_size": 8, "epochs": 1}}
    inner = simulate(tables(torch.float64))
    expected = trained(LinearPlan, inner, tmp_path / "in order", **settings)
    for seed in range(3):
        shuffled = Shuffled(inner, seed)
        assert_same_bits(expected, trained(LinearPlan, shuffled, tmp_path / f"shuffled-{seed}", **settings))
        assert len(set(shuffled.orders)) > 1


# ---- what the model is


SIZES = (18, 43, 30)


def tables(dtype: torch.dtype = torch.float32) -> list[TensorDataset]:
    generator = torch.Generator().manual_seed(23)
    made = []
    for rows in SIZES:
        x = torch.randn(rows, 13, generator=generator, dtype=torch.float64)
        y = (x[:, :3].sum(1, keepdim=True) > 0).double()
        made.append(TensorDataset(x.to(dtype), y.to(dtype)))
    return made


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-6), ("float64", 1e-12)])
def test_one_full_batch_step_is_that_of_the_pooled_data(tmp_path: Path, dtype: str, bound: float) -> None:
    data = tables(getattr(torch, dtype))
    experiment = Experiment(
        LinearPlan,
        model_args={"dtype": dtype},
        training_args={"batch_size": 100, "epochs": 1},
        federation=simulate(data),
        folder=tmp_path / "run",
        round_limit=1,
        observers=[],
    )
    model = experiment.model()
    before = {name: p.clone() for name, p in model.state_dict().items()}
    x, y = (torch.cat([table.tensors[k] for table in data]) for k in (0, 1))
    (model(x) - y).square().mean().backward()
    expected = {name: (p - 0.5 * p.grad).detach() for name, p in model.named_parameters() if p.grad is not None}
    experiment.run()
    found = state_of(experiment)
    assert found.keys() == expected.keys()
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) <= bound
    assert max(float((found[name] - before[name]).abs().max()) for name in expected) > 1e-2


def plain_loop(data: Sequence[TensorDataset], *, rounds: int, seed: int, batch_size: int, updates: int) -> State:
    """FedAvg in one function: McMahan et al., 2017, algorithm 1, all clients in each round.

    Batches and masks come of streams named in node/batches.py and node/local_training.py; sums are in float64.
    """
    with seeded(derive(seed, "initial weights")):
        net = network()
    world = {name: t.clone() for name, t in net.state_dict().items()}
    for number in range(1, rounds + 1):
        sums = {name: torch.zeros_like(t, dtype=torch.float64) for name, t in world.items()}
        for node_id, table in zip(("node-0", "node-1", "node-2"), data, strict=True):
            net.load_state_dict(world)
            optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
            in_pass = -(-len(table) // batch_size)
            with seeded(derive(seed, "train", number, node_id)):
                for batch in range((number - 1) * updates, number * updates):
                    generator = torch.Generator().manual_seed(derive(seed, "batches", node_id, batch // in_pass))
                    order = torch.randperm(len(table), generator=generator)
                    rows = order[batch % in_pass * batch_size :][:batch_size]
                    x, y = table[rows]
                    optimizer.zero_grad()
                    nn.functional.binary_cross_entropy_with_logits(net(x), y).backward()
                    optimizer.step()
            for name, tensor in net.state_dict().items():
                sums[name] += len(table) * tensor.double()
        world = {name: (total / sum(SIZES)).to(world[name].dtype) for name, total in sums.items()}
    return world


def test_federated_averaging_is_the_plain_loop(tmp_path: Path) -> None:
    data = tables()
    found = trained(
        DeepPlan,
        simulate(data),
        tmp_path / "run",
        model_args={"optimizer": "SGD"},
        training_args={"batch_size": 8, "num_updates": 7},
        round_limit=4,
    )
    assert_same_bits(plain_loop(data, rounds=4, seed=11, batch_size=8, updates=7), found)
    assert int(found["1.num_batches_tracked"]) == 28


def run_with(aggregator: Aggregator, folder: Path) -> tuple[State, float]:
    """The model, and how far it is from where it began."""
    settings: dict[str, Any] = {"model_args": {"dtype": "float32"}, "training_args": {"batch_size": 8, "epochs": 3}}
    experiment = Experiment(
        LinearPlan, federation=simulate(tables()), folder=folder, aggregator=aggregator, observers=[], **settings
    )
    before = state_of(experiment)
    experiment.run(rounds=2)
    after = state_of(experiment)
    return after, sum(float((after[name] - before[name]).square().sum()) for name in after)


def test_the_proximal_term_of_weight_zero_is_none_and_others_hold_the_model_near(tmp_path: Path) -> None:
    plain, far = run_with(FedAverage(), tmp_path / "plain")
    zero, _ = run_with(FedProx(mu=0), tmp_path / "zero")
    assert_same_bits(plain, zero)
    _, nearer = run_with(FedProx(mu=0.1), tmp_path / "some")
    _, nearest = run_with(FedProx(mu=1.0), tmp_path / "more")
    assert nearest < nearer < far
