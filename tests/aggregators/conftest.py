"""Linear regression in float64 at three nodes that disagree: the optimum of all data is known in closed form.

And rounds without nodes, for aggregators that only work at the server: the updates are given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from polyclinic import Experiment, Federation, InProcessFederation, TorchTrainingPlan, simulate
from polyclinic.messages.replies import Failure, Reply, TrainReply

SIZES = {"ash": 10, "birch": 25, "cedar": 6}
LR = 0.05


class Regression(TorchTrainingPlan):
    """Mean squares; ``weight_decay`` in model_args."""

    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(3, 1, bias=False).double()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.05, weight_decay=model_args.get("weight_decay", 0.0))

    def training_step(self, x, y):
        return (self.model(x) - y).square().mean()


def rows(n: int, seed: int) -> TensorDataset:
    draw = {"generator": torch.Generator().manual_seed(seed), "dtype": torch.float64}
    x = torch.randn(n, 3, **draw) * torch.tensor([1.0, 0.5 + seed / 2, 1.5])
    return TensorDataset(x, x @ torch.randn(3, 1, **draw) + 0.1 * torch.randn(n, 1, **draw))


class Spied(Federation):
    """Another federation, whose replies are noted; nodes may be told to fail in some rounds."""

    def __init__(self, inner: InProcessFederation) -> None:
        self.inner = inner
        self.sent: set[str] = set()  # names of all tensors in replies to trainings
        self.fails: dict[int, str] = {}  # round -> node
        self.late = False  # whether a node that fails has done its work, and kept what it keeps

    def nodes(self):
        return self.inner.nodes()

    def send(self, requests, deadline=None) -> Iterator[Reply]:
        # In the order of node ids: a reply's tensors are the live ones, until the next node works.
        for node_id, request in sorted(requests.items()):
            if self.fails.get(getattr(request, "round", 0)) == node_id:
                if self.late:
                    list(self.inner.send({node_id: request}, deadline))
                given = {"request_id": request.request_id, "node_id": node_id}
                yield Failure(**given, code="training", stage="train", what="down")
                continue
            for reply in self.inner.send({node_id: request}, deadline):
                if isinstance(reply, TrainReply):
                    self.sent |= reply.tensors.keys()
                yield reply

    def cancel(self, experiment_id):
        self.inner.cancel(experiment_id)


class Quadratics:
    """The data, and what can be said of them without any federation."""

    plan = Regression
    lr = LR
    spied = Spied

    def __init__(self) -> None:
        self.data = {name: rows(n, seed) for seed, (name, n) in enumerate(SIZES.items())}

    def shares(self, weights: str = "num_samples") -> dict[str, float]:
        if weights == "uniform":
            return dict.fromkeys(SIZES, 1 / len(SIZES))
        return {name: n / sum(SIZES.values()) for name, n in SIZES.items()}

    def gradient(self, name: str, w: torch.Tensor) -> torch.Tensor:
        """Of the node's whole data, written out."""
        x, y = self.data[name].tensors
        return 2 * (w @ x.T - y.T) @ x / len(x)

    def optimum(self, weights: str = "num_samples", decay: float = 0.0) -> torch.Tensor:
        shares = self.shares(weights)
        pairs = [(shares[n] / len(d), *d.tensors) for n, d in self.data.items()]
        a = sum(2 * s * x.T @ x for s, x, _ in pairs) + decay * torch.eye(3, dtype=torch.float64)
        return torch.linalg.solve(a, sum(2 * s * x.T @ y for s, x, y in pairs)).T


@pytest.fixture
def quadratics() -> Quadratics:
    return Quadratics()


@pytest.fixture
def run(tmp_path, quadratics) -> Callable[..., Experiment]:
    """Runs an experiment over the quadratics: five steps a round on all rows of a node, unless said otherwise."""
    made = []

    def run_experiment(aggregator, rounds, **settings) -> Experiment:
        made.append(tmp_path / f"run-{len(made)}")
        given = {
            "training_args": {"batch_size": 100, "num_updates": 5},
            "federation": simulate(quadratics.data),
            "folder": made[-1],
            "seed": 4,
            "observers": [],
        }
        plan = settings.pop("plan", Regression)
        experiment = Experiment(plan, aggregator=aggregator, round_limit=1000, **(given | settings))
        experiment.run(rounds=rounds)
        return experiment

    return run_experiment


@pytest.fixture
def next_model():
    return _next_model


def _next_model(aggregator, begin, sent, *, num_samples=None, num_updates=None, losses=None):
    """What the aggregator makes of these tensors; by default each node has one sample, took one step, lost 1."""
    ones = [1] * len(sent)
    aggregator.begin(begin)
    for number, (tensors, samples, updates, loss) in enumerate(
        zip(sent, num_samples or ones, num_updates or ones, losses or ones, strict=True)
    ):
        aggregator.add(
            TrainReply(
                request_id="r",
                node_id=f"node-{number}",
                num_samples=samples,
                num_updates=updates,
                loss=loss,
                seconds=0.0,
                tensors=tensors,
            )
        )
    return aggregator.finish()
