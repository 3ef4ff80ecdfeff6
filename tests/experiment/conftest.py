"""A small experiment: three hospitals in memory, a linear model, two classes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from polyclinic import Experiment, InProcessFederation, TorchTrainingPlan, simulate
from polyclinic.messages.replies import Failure, TrainReply

SIZES = {"ash": (17, 11), "birch": (9, 8), "cedar": (30, 14)}


class Plan(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Sequential(nn.Linear(3, 1), nn.Sigmoid())
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.5)

    def training_step(self, x, y):
        return F.binary_cross_entropy(self.model(x), y)


def rows(n: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    noise = torch.randn(n, 1, generator=generator)
    y = (x @ torch.tensor([[1.0], [-1.0], [0.5]]) + noise > 0).float()
    y[0], y[1] = 0.0, 1.0  # both classes everywhere
    return TensorDataset(x, y)


def hospitals() -> dict[str, tuple[TensorDataset, TensorDataset]]:
    return {
        name: (rows(train, seed), rows(test, seed + 100)) for seed, (name, (train, test)) in enumerate(SIZES.items())
    }


@pytest.fixture(scope="session")
def plan() -> type[TorchTrainingPlan]:
    return Plan


@pytest.fixture
def data() -> dict[str, tuple[TensorDataset, TensorDataset]]:
    return hospitals()


@pytest.fixture
def federation(data: dict[str, tuple[TensorDataset, TensorDataset]]) -> InProcessFederation:
    return simulate(data, tags=["trees"])


@pytest.fixture
def make(tmp_path, federation) -> Callable[..., Experiment]:
    """An experiment in ``tmp_path / "run"``; keywords replace the settings."""

    def make_experiment(**settings):
        training_args = {"batch_size": 4, "num_updates": 5} | settings.pop("training_args", {})
        given = {
            "tags": ["trees"],
            "round_limit": 3,
            "federation": federation,
            "folder": tmp_path / "run",
            "observers": [],
            "seed": 5,
        }
        model_class = settings.pop("model_class", Plan)
        return Experiment(model_class, training_args=training_args, **(given | settings))

    return make_experiment


@pytest.fixture
def same() -> Callable[[nn.Module, nn.Module], bool]:
    """Whether two models are the same, bit for bit."""

    def compare(one: nn.Module, other: nn.Module) -> bool:
        ours, theirs = one.state_dict(), other.state_dict()
        return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)

    return compare


@pytest.fixture
def failing(federation) -> Callable[..., None]:
    """Lets a node fail in these rounds, as if its plan had raised."""

    def fail(name: str, *rounds: int, code: str = "training", traceback: str = "") -> None:
        (node,) = [node for node in federation.each_node() if node.name == name]
        handle = type(node).handle.__get__(node)  # the node's own, whatever was set before

        def handle_or_fail(request, stop=None):
            reply = handle(request, stop)
            if isinstance(reply, TrainReply) and request.round in rounds:
                return Failure(
                    request_id=request.request_id,
                    node_id=node.node_id,
                    code=code,
                    stage="train",
                    what="the disk [/] is on fire",
                    to_do="call the fire brigade",
                    traceback=traceback,
                )
            return reply

        node.handle = handle_or_fail

    return fail
