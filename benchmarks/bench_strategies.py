"""A strategy of protocol flamby on Fed-Heart-Disease, against loops that do the same steps; and a whole sweep.

    python benchmarks/bench_strategies.py [sweep DATA]

Goals: at most 1.0 of a plain PyTorch loop, at most 0.5 of a loop built as FLamby's strategies are, and in the sweep
(5 seeds, all strategies, Fed-Heart-Disease and, with its folder as DATA, Fed-TCGA-BRCA) under 15 % outside training.
"""

from __future__ import annotations

import copy
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

from pairs import compare
from plain_loop import federated_averaging
from polyclinic.benchmark.cells import Cell, run_cell
from polyclinic.benchmark.protocols import get_protocol
from polyclinic.benchmark.results import ResultsFile
from polyclinic.benchmark.runner import Sweep, plan_cells, run_cells
from polyclinic.datasets import fed_heart_disease as heart

LR, NUM_UPDATES = 0.001, 100
ROUNDS = heart.get_nb_max_rounds(NUM_UPDATES)


def cell() -> Cell:
    sweep = Sweep(strategies=["FedAverage"], seeds=[42], baselines=False, curve_points=0)
    return plan_cells(get_protocol("flamby"), "fed_heart_disease", sweep)[0]


def plain_loop() -> None:
    parts = [heart.FedClass(center=k, train=True).tensors for k in range(4)]
    loss = heart.BaselineLoss()
    torch.manual_seed(42)
    federated_averaging(
        heart.Baseline,
        lambda model: torch.optim.SGD(model.parameters(), lr=LR),
        lambda model, batch: loss(model(batch[0]), batch[1]),
        parts,
        rounds=ROUNDS,
        num_updates=NUM_UPDATES,
        batch_size=heart.BATCH_SIZE,
    )


class Client:
    """As FLamby's strategies keep one: its own copy of the model, and an iterator that goes on over the rounds."""

    def __init__(self, center: int, model: nn.Module) -> None:
        self.loader = DataLoader(heart.FedClass(center=center, train=True), batch_size=heart.BATCH_SIZE, shuffle=True)
        self.batches = iter(self.loader)
        self.model = copy.deepcopy(model)
        self.loss = heart.BaselineLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LR)
        self.num_samples = len(self.loader.dataset)

    def next_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        try:
            return next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            return next(self.batches)

    def parameters(self) -> list[np.ndarray]:
        return [p.detach().cpu().numpy().copy() for p in self.model.parameters()]

    def update(self) -> list[np.ndarray]:
        before = self.parameters()
        self.model.train()
        for _ in range(NUM_UPDATES):
            x, y = self.next_batch()
            value = self.loss(self.model(x), y)
            value.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return [new - old for new, old in zip(self.parameters(), before, strict=True)]

    def add(self, update: list[np.ndarray], sign: int) -> None:
        with torch.no_grad():
            for parameter, change in zip(self.model.parameters(), update, strict=True):
                parameter += sign * torch.from_numpy(change)


def loop_as_flamby() -> None:
    torch.manual_seed(42)
    model = heart.Baseline()
    clients = [Client(center, model) for center in range(4)]
    total = sum(client.num_samples for client in clients)
    for _ in range(ROUNDS):
        updates = []
        for client in clients:
            updates.append(client.update())
            client.add(updates[-1], -1)
        mean = [
            sum(u[k] * client.num_samples / total for u, client in zip(updates, clients, strict=True))
            for k in range(len(updates[0]))
        ]
        for client in clients:
            client.add(mean, 1)


def sweep(data: Path | None) -> None:
    protocol = get_protocol("flamby")
    settings = Sweep(baselines=False, curve_points=0)
    cells = plan_cells(protocol, "fed_heart_disease", settings)
    if data is not None:
        cells += plan_cells(protocol, "fed_tcga_brca", settings, data)
    results = ResultsFile(Path(tempfile.mkdtemp()) / "results.csv")
    began = time.perf_counter()
    run_cells(cells, results, workers=2)
    seconds = time.perf_counter() - began
    rows = {row.cell: row for row in results.read()}.values()
    inside = sum(row.training_seconds for row in rows)
    whole = sum(row.seconds for row in rows)
    print(
        f"sweep: {len(cells)} cells with 2 workers in {seconds:.1f} s; the cells took {whole:.1f} s, "
        f"{1 - inside / whole:.1%} of them outside local training"
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    one = cell()
    compare("FedAverage, protocol flamby, over a plain loop", lambda: run_cell(one), plain_loop)
    compare("FedAverage, protocol flamby, over a loop as FLamby's", lambda: run_cell(one), loop_as_flamby)
    if "sweep" in sys.argv:
        sweep(Path(sys.argv[2]) if len(sys.argv) > 2 else None)
