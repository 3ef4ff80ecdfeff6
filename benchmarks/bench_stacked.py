"""Whole experiments with a `StackedFederation`, run folders included, over plain loops that take the same steps.

    python benchmarks/bench_stacked.py

Goals: at most 0.6 with 4 nodes, 0.05 with 200, 0.02 with 1,000; 10,000 nodes in memory.
"""

from __future__ import annotations

import resource
import tempfile
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

from bench_round_loop import HEART, HeartPlan
from pairs import compare, seconds
from plain_loop import federated_averaging
from polyclinic import Experiment, StackedFederation, simulate

BATCH_SIZE = 4
NUM_UPDATES = 100


def experiment(federation: StackedFederation, *, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Experiment(
            HeartPlan,
            federation=federation,
            training_args={"batch_size": BATCH_SIZE, "num_updates": NUM_UPDATES},
            round_limit=rounds,
            folder=Path(folder) / "run",
            observers=[],
        ).run()
    assert federation.way.startswith("stacked"), federation.way


def plain_loop(clients: list[tuple[torch.Tensor, ...]], *, rounds: int) -> None:
    loss = HEART.BaselineLoss()
    federated_averaging(
        HEART.Baseline,
        lambda model: torch.optim.SGD(model.parameters(), lr=0.01),
        lambda model, batch: loss(model(batch[0]), batch[1]),
        clients,
        rounds=rounds,
        num_updates=NUM_UPDATES,
        batch_size=BATCH_SIZE,
    )


def against_plain_loop(title: str, clients: list[tuple[torch.Tensor, ...]], *, rounds: int, pairs: int) -> None:
    federation = simulate([TensorDataset(*client) for client in clients], stacked=True)
    compare(
        f"{title}, {rounds} rounds of {NUM_UPDATES} updates, batch {BATCH_SIZE}",
        lambda: experiment(federation, rounds=rounds),
        lambda: plain_loop(clients, rounds=rounds),
        pairs=pairs,
    )


def heart_centers() -> list[tuple[torch.Tensor, ...]]:
    return [HEART.FedClass(center=center, train=True).tensors for center in range(4)]


def made_up(count: int, *, unequal: bool = False) -> list[tuple[torch.Tensor, ...]]:
    """Nodes of 40 rows, or of 20 to 60."""
    sizes = torch.randint(20, 61, (count,)).tolist() if unequal else [40] * count
    return [(torch.randn(rows, 13), torch.randint(0, 2, (rows, 1)).float()) for rows in sizes]


def ten_thousand() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    federation = simulate([TensorDataset(*client) for client in made_up(10_000)], stacked=True)
    took = seconds(lambda: experiment(federation, rounds=3))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"10,000 nodes of 40 rows, 3 rounds of {NUM_UPDATES} updates, batch {BATCH_SIZE}: {took:.1f} s, "
        f"{(after - before) / 1024:.0f} MB more than before, {after / 1024:.0f} MB in all"
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    # Threads do not help so small a model; both sides have one.
    torch.set_num_threads(1)
    ten_thousand()
    against_plain_loop("heart, 14 parameters, 4 nodes", heart_centers(), rounds=5, pairs=15)
    against_plain_loop("200 nodes of 40 rows", made_up(200), rounds=3, pairs=3)
    against_plain_loop("200 nodes of 20 to 60 rows", made_up(200, unequal=True), rounds=3, pairs=3)
    against_plain_loop("1,000 nodes of 40 rows", made_up(1000), rounds=1, pairs=3)
