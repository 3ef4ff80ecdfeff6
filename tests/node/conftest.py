"""Nodes, and requests to them, whose plans are written as the text that travels."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.utils.data import TensorDataset

from polyclinic.federation.simulation import simulate
from polyclinic.messages.requests import CheckRequest, EvaluateRequest, PlanText, TrainRequest
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.node.node import Node
from polyclinic.plans.source import PlanSource, load_plan_class
from polyclinic.plans.workbench import build
from tests.node.postgresql import BINARIES, running_server

PLAN = """\
import random
import sys

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from polyclinic import TorchTrainingPlan


class Plan(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = {model}
        self.optimizer = {optimizer}

    def training_step(self, x, y):
        {step}
{more}
"""
MEAN_SQUARES = "return F.mse_loss(self.model(x), y)"


def plan(
    step: str = MEAN_SQUARES,
    *,
    model: str = "nn.Linear(3, 1)",
    optimizer: str = "torch.optim.SGD(self.parameters(), lr=0.1)",
    more: str = "",
) -> PlanText:
    text = PLAN.format(
        step=textwrap.indent(step, " " * 8).lstrip(),
        model=model,
        optimizer=optimizer,
        more=textwrap.indent(textwrap.dedent(more), "    "),
    )
    return PlanText(text=text, class_name="Plan")


def initial(text: PlanText, seed: int = 7) -> dict[str, torch.Tensor]:
    """A model to begin with, the same at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        built = build(load_plan_class(PlanSource(text=text.text, class_name=text.class_name)), {})
    return {name: tensor.detach().clone() for name, tensor in built.state_dict().items()}


def _fields(text: PlanText, state: dict[str, torch.Tensor] | None, args: dict[str, object]) -> dict[str, object]:
    return {
        "request_id": "r",
        "experiment_id": "e",
        "dataset_id": "data",
        "plan": text,
        "model_args": {},
        "training_args": TrainingArgs.parse({"batch_size": 4, "num_updates": 5} | args),
        "seed": 3,
        "tensors": initial(text) if state is None else state,
    }


def train_request(
    text: PlanText, state: dict[str, torch.Tensor] | None = None, *, round_index: int = 1, **args: object
) -> TrainRequest:
    return TrainRequest(round=round_index, **_fields(text, state, args))


def check_request(text: PlanText, state: dict[str, torch.Tensor] | None = None, **args: object) -> CheckRequest:
    return CheckRequest(**_fields(text, state, args))


def evaluate_request(
    text: PlanText,
    state: dict[str, torch.Tensor] | None = None,
    *,
    metrics: tuple[str, ...] | None = ("loss",),
    split: str = "test",
    round_index: int = 1,
    **args: object,
) -> EvaluateRequest:
    return EvaluateRequest(round=round_index, split=split, metrics=metrics, **_fields(text, state, args))


def rows(n: int, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    return TensorDataset(x, x @ torch.tensor([[1.0], [-2.0], [0.5]]) + 0.1 * torch.randn(n, 1, generator=generator))


def in_memory(train: object, test: object | None = None) -> Node:
    """A throw-away node without a folder."""
    federation = simulate({"ward": train if test is None else (train, test)})
    (node,) = federation.each_node()
    return node


class Work:
    """The functions above, for the tests: test files cannot import each other."""

    plan = staticmethod(plan)
    initial = staticmethod(initial)
    train = staticmethod(train_request)
    check = staticmethod(check_request)
    evaluate = staticmethod(evaluate_request)
    rows = staticmethod(rows)
    node = staticmethod(in_memory)


@pytest.fixture(scope="session")
def work() -> type[Work]:
    return Work


@pytest.fixture(scope="session")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server, without a schema: each test has one of its own."""
    if not BINARIES:
        pytest.skip("the package postgresql is not installed")
    with running_server() as url:
        yield url


@pytest.fixture
def node() -> Node:
    return in_memory(rows(10), rows(6, seed=1))


@pytest.fixture
def clone() -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
    """A reply's tensors are the workbench's own: a test that goes on needs a copy."""
    return lambda state: {name: tensor.clone() for name, tensor in state.items()}
