"""Rounds of a 100 MB model: time over one in-memory copy and weighted sum of the same bytes, and peak memory.

    python benchmarks/bench_large_model.py

Each number of nodes is measured in a process of its own. The step is trivial: only a small head has a gradient,
so that what is measured is moving and averaging models. Goals: at most 4 models of memory, the same for 4 and 16 nodes.
"""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from polyclinic import Experiment, TorchTrainingPlan, simulate

LAYERS, WIDTH = 25, 1000
ROUNDS = 3


class LargePlan(TorchTrainingPlan):
    def __init__(self):
        super().__init__()
        self.model = nn.ModuleList(nn.Linear(1000, 1000, bias=False) for _ in range(25))
        self.head = nn.Linear(1000, 1)
        self.optimizer = torch.optim.SGD(self.head.parameters(), lr=0.001)

    def training_step(self, x):
        return self.head(x).square().mean()


class SmallPlan(TorchTrainingPlan):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(1000, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.001)

    def training_step(self, x):
        return self.model(x).square().mean()


def peak_bytes() -> int:
    """The process's peak resident memory so far (Linux)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1]) * 1024


def experiment(plan: type, federation: object, folder: str) -> Experiment:
    return Experiment(
        plan,
        federation=federation,
        training_args={"batch_size": 1, "num_updates": 1},
        round_limit=ROUNDS,
        folder=Path(folder) / plan.__name__,
        observers=[],
    )


def measure(num_nodes: int) -> None:
    federation = simulate([TensorDataset(torch.randn(1, WIDTH)) for _ in range(num_nodes)])
    with tempfile.TemporaryDirectory() as folder:
        # What is imported, and what a first backward pass sets up, is no part of the models' memory.
        experiment(SmallPlan, federation, folder).run()
        gc.collect()
        before = peak_bytes()
        large = experiment(LargePlan, federation, folder)
        large.run(rounds=1)
        began = time.perf_counter()
        large.run()
        a_round = (time.perf_counter() - began) / (ROUNDS - 1)
    peak = peak_bytes() - before
    model = [torch.randn(WIDTH, WIDTH) for _ in range(LAYERS)]
    sums = [torch.zeros(WIDTH, WIDTH) for _ in range(LAYERS)]
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(num_nodes):
            for total, tensor in zip(sums, model, strict=True):
                total.add_(tensor.clone(), alpha=0.5)
        times.append(time.perf_counter() - began)
    least = min(times)
    size = LAYERS * WIDTH * WIDTH * 4
    print(
        f"{num_nodes} nodes, {size / 1e6:.0f} MB: {a_round:.2f} s a round, {least:.2f} s for copies and sums alone, "
        f"ratio {a_round / least:.1f}; peak memory {peak / size:.2f} models"
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(int(sys.argv[1]))
    else:
        for count in (4, 16):
            subprocess.run([sys.executable, __file__, str(count)], check=True)
