"""Against FLamby's way itself: one torch DataLoader a client, all drawing from the global generator."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from polyclinic import Experiment, TorchTrainingPlan
from polyclinic.benchmark.shared_generator import SharedGenerator
from polyclinic.federation.in_process import InProcessFederation
from polyclinic.federation.simulation import in_memory
from polyclinic.messages.requests import TrainRequest
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.node.node import Node
from polyclinic.node.registry import ListRegistry
from polyclinic.node.workbenches import Workbenches
from polyclinic.randomness import seeded

SEED = 46


class EndlessLoader:
    """Batches without end: when a pass is over, the next one is begun with a new iterator."""

    def __init__(self, data, batch_size):
        self.loader = DataLoader(data, batch_size=batch_size, shuffle=True)
        self.iterator = iter(self.loader)

    def batch(self):
        try:
            return next(self.iterator)
        except StopIteration:
            self.iterator = iter(self.loader)
            return next(self.iterator)


def set_seed(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


def request(**training_args):
    return TrainRequest.model_construct(round=1, seed=SEED, training_args=TrainingArgs(**training_args))


def taken(streams, sizes, what, *, rounds, draws=0):
    """The sample numbers of each client's batches, round by round, and what its step drew besides."""
    found = []
    for _ in range(rounds):
        for client, size in enumerate(sizes):
            with streams.training(what, f"client {client}"):
                for part in streams.order(size, what, f"client {client}"):
                    batches = torch.split(part, what.training_args.batch_size)
                    found.extend((client, batch.tolist(), torch.rand(draws).tolist()) for batch in batches)
    return found


# Passes of 2, 3 and 1 batches: they end within rounds, at their ends, and several times a round.
@pytest.mark.parametrize("updates", [1, 3, 7])
@pytest.mark.parametrize("draws", [0, 5], ids=["no-dropout", "dropout"])
def test_strategies_see_the_batches_of_torchs_loaders(updates, draws):
    sizes, rounds = [7, 10, 3], 6
    with seeded(0):
        set_seed(SEED + 1)  # whatever was before
        clients = [EndlessLoader(TensorDataset(torch.arange(size)), 4) for size in sizes]
        set_seed(SEED)
        expected = [
            (client, loader.batch()[0].tolist(), torch.rand(draws).tolist())
            for _ in range(rounds)
            for client, loader in enumerate(clients)
            for _ in range(updates)
        ]
    streams = SharedGenerator(SEED, iterators_made=True)
    assert taken(streams, sizes, request(batch_size=4, num_updates=updates), rounds=rounds, draws=draws) == expected
    assert len(expected) == rounds * 3 * updates


@pytest.mark.parametrize("draws", [0, 5], ids=["no-dropout", "dropout"])
def test_baselines_see_the_batches_of_plain_epochs(draws):
    with seeded(0):
        set_seed(SEED)
        loader = DataLoader(TensorDataset(torch.arange(10)), batch_size=4, shuffle=True)
        expected = [(0, batch.tolist(), torch.rand(draws).tolist()) for _ in range(5) for (batch,) in loader]
    streams = SharedGenerator(SEED, iterators_made=False)
    assert taken(streams, [10], request(batch_size=4, epochs=5), rounds=1, draws=draws) == expected


def test_another_seed_gives_other_batches():
    what = request(batch_size=2, num_updates=8)
    orders = [taken(SharedGenerator(seed, iterators_made=True), [16], what, rounds=1) for seed in (1, 2)]
    assert orders[0] != orders[1]


def test_python_and_numpy_have_the_seed_too_and_all_go_on_where_they_were():
    with seeded(0):
        set_seed(SEED)
        expected = [(torch.rand(1).item(), np.random.rand(), random.random()) for _ in range(3)]  # noqa: NPY002
    streams = SharedGenerator(SEED, iterators_made=True)
    what, found = request(num_updates=1), []
    for node in ("a", "b", "a"):
        with streams.training(what, node):
            found.append((torch.rand(1).item(), np.random.rand(), random.random()))  # noqa: NPY002
        torch.rand(3)  # others draw in between
    assert found == expected


def test_the_global_generators_are_left_as_they_were():
    def three():
        return torch.rand(1).item(), np.random.rand(), random.random()  # noqa: NPY002

    with seeded(1):
        expected = [three(), three()]
    with seeded(1):
        found = [three()]
        streams = SharedGenerator(SEED, iterators_made=False)
        taken(streams, [5, 6], request(batch_size=2, num_updates=3), rounds=2, draws=2)
        with pytest.raises(ZeroDivisionError), streams.drawing(), streams.drawing():
            torch.rand(1) / (1 // 0)
        found.append(three())
    assert found == expected


# ---- a whole experiment


class Plan(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.4), torch.nn.Linear(8, 1))
        self.loss = torch.nn.MSELoss()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.05)

    def training_step(self, x, y):
        return self.loss(self.model(x), y)


def test_an_experiment_with_dropout_ends_with_the_model_of_the_plain_loop(tmp_path):
    with seeded(3):
        parts = [TensorDataset(torch.randn(n, 3), torch.randn(n, 1)) for n in (7, 10, 3)]
        model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.4), torch.nn.Linear(8, 1))
        begin = copy.deepcopy(model)
        clients = [EndlessLoader(part, 4) for part in parts]
        set_seed(SEED)
        for _ in range(4):
            ends = []
            for client in clients:
                local = copy.deepcopy(model)
                optimizer = torch.optim.SGD(local.parameters(), lr=0.05)
                for _ in range(3):
                    x, y = client.batch()
                    optimizer.zero_grad()
                    torch.nn.functional.mse_loss(local(x), y).backward()
                    optimizer.step()
                ends.append(local.state_dict())
            weights = [len(part) / 20 for part in parts]
            mean = {name: sum(w * end[name] for w, end in zip(weights, ends, strict=True)) for name in ends[0]}
            model.load_state_dict(mean)
    streams, benches = SharedGenerator(SEED, iterators_made=True), Workbenches()
    nodes = [
        Node(f"{k}", f"{k}", ListRegistry([in_memory(f"{k}", part, ("t",))]), workbenches=benches, streams=streams)
        for k, part in enumerate(parts)
    ]
    experiment = Experiment(
        Plan,
        tags=["t"],
        training_args={"batch_size": 4, "num_updates": 3, "lr": 0.05},
        round_limit=4,
        federation=InProcessFederation(nodes),
        folder=tmp_path / "run",
        observers=[],
        initial_state={f"model.{name}": tensor for name, tensor in begin.state_dict().items()},
    )
    experiment.run()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(experiment.model().state_dict()[name], tensor, rtol=1e-5, atol=1e-6)
