"""A whole experiment, its run folder included, over the plain PyTorch loop that takes the same steps.

    python benchmarks/bench_round_loop.py

Goals: at most 1.05 for the IXI U-Net, 1.3 for the heart model, 1.3 with 200 small nodes; linear up to 1,000 nodes.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

from pairs import compare, seconds
from plain_loop import federated_averaging
from polyclinic import Experiment, TorchTrainingPlan, simulate
from polyclinic.datasets import fed_heart_disease, fed_ixi

HEART = fed_heart_disease


class HeartPlan(TorchTrainingPlan):
    def __init__(self):
        super().__init__()
        self.model = HEART.Baseline()
        self.loss = HEART.BaselineLoss()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

    def training_step(self, x, y):
        return self.loss(self.model(x), y)


class IxiPlan(TorchTrainingPlan):
    def __init__(self):
        super().__init__()
        self.model = fed_ixi.Baseline()
        self.loss = fed_ixi.BaselineLoss()
        self.optimizer = fed_ixi.Optimizer(self.parameters(), lr=0.001)

    def training_step(self, x, y):
        return self.loss(self.model(x), y)


def experiment(plan: type, federation: object, *, rounds: int, num_updates: int, batch_size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Experiment(
            plan,
            federation=federation,
            training_args={"batch_size": batch_size, "num_updates": num_updates},
            round_limit=rounds,
            folder=Path(folder) / "run",
            observers=[],
        ).run()


def heart() -> None:
    parts = [HEART.FedClass(center=center, train=True) for center in range(4)]
    clients = [part.tensors for part in parts]
    federation = simulate(parts)
    loss = HEART.BaselineLoss()
    compare(
        "heart, 14 parameters, 4 nodes, 5 rounds of 100 updates, batch 4",
        lambda: experiment(HeartPlan, federation, rounds=5, num_updates=100, batch_size=4),
        lambda: federated_averaging(
            HEART.Baseline,
            lambda model: torch.optim.SGD(model.parameters(), lr=0.01),
            lambda model, batch: loss(model(batch[0]), batch[1]),
            clients,
            rounds=5,
            num_updates=100,
            batch_size=4,
        ),
    )


def many_nodes() -> None:
    def clients(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(torch.randn(40, 13), torch.randint(0, 2, (40, 1)).float()) for _ in range(count)]

    loss = HEART.BaselineLoss()
    data = clients(200)
    federation = simulate([TensorDataset(*client) for client in data])
    compare(
        "heart model, 200 nodes of 40 rows, 3 rounds of 20 updates, batch 4",
        lambda: experiment(HeartPlan, federation, rounds=3, num_updates=20, batch_size=4),
        lambda: federated_averaging(
            HEART.Baseline,
            lambda model: torch.optim.SGD(model.parameters(), lr=0.01),
            lambda model, batch: loss(model(batch[0]), batch[1]),
            data,
            rounds=3,
            num_updates=20,
            batch_size=4,
        ),
        pairs=5,
    )
    per_node = {}
    for count in (10, 100, 1000):
        several = simulate([TensorDataset(*client) for client in clients(count)])

        def run(several: object = several) -> None:
            experiment(HeartPlan, several, rounds=3, num_updates=20, batch_size=4)

        run()
        per_node[count] = min(seconds(run) for _ in range(3)) / 3 / count
    figures = ", ".join(f"{count} nodes: {value * 1e3:.2f}" for count, value in per_node.items())
    print(f"milliseconds a node and round: {figures}; 1,000 over 10 nodes: {per_node[1000] / per_node[10]:.2f}")


def ixi() -> None:
    with tempfile.TemporaryDirectory() as folder:
        raw = fed_ixi.mock(Path(folder) / "raw", patients_per_center=6, seed=0)
        prepared = fed_ixi.prepare(raw, Path(folder) / "prepared", show_progress=False)
        parts = [fed_ixi.FedClass(center=center, train=True, data_path=prepared) for center in range(3)]
        whole = [tuple(torch.stack(column) for column in zip(*part, strict=True)) for part in parts]
        federation = simulate(parts)
        loss = fed_ixi.BaselineLoss()
        compare(
            "IXI U-Net, 246,156 parameters, 3 nodes, 2 rounds of 2 updates, batch 2",
            lambda: experiment(IxiPlan, federation, rounds=2, num_updates=2, batch_size=2),
            lambda: federated_averaging(
                fed_ixi.Baseline,
                lambda model: fed_ixi.Optimizer(model.parameters(), lr=0.001),
                lambda model, batch: loss(model(batch[0]), batch[1]),
                whole,
                rounds=2,
                num_updates=2,
                batch_size=2,
            ),
            pairs=3,
        )


if __name__ == "__main__":
    torch.manual_seed(0)
    # Threads do not help so small a model; both sides have one.
    torch.set_num_threads(1)
    heart()
    many_nodes()
    ixi()
