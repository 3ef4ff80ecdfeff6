"""What the sandbox costs: a round of the 14-parameter model in a node's worker, and the same in this process.

python benchmarks/bench_sandbox.py
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from polyclinic import tensors
from polyclinic.federation.over_nats.node_work import Job, Workshop
from polyclinic.federation.places import create_nodes
from polyclinic.messages.replies import TrainReply
from polyclinic.messages.requests import PlanText, TrainRequest
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.node import sandbox
from polyclinic.node.node import Node

ROUNDS = 200
FIRST = 5  # first rounds; the least of them is told, as whatever else this machine does only adds
PLAN = """
import torch
from polyclinic import TorchTrainingPlan

class Logistic(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = torch.nn.Linear(13, 1)
        self.loss = torch.nn.BCEWithLogitsLoss()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

    def training_step(self, x, y):
        return self.loss(self.model(x), y)
"""


def request(node: Node, number: int) -> TrainRequest:
    """A round's request."""
    return TrainRequest(
        request_id=f"r{number}",
        experiment_id="bench",
        dataset_id=node.registry.datasets()[0].dataset_id,
        plan=PlanText(text=PLAN, class_name="Logistic"),
        model_args={},
        training_args=TrainingArgs(batch_size=16, epochs=1),
        seed=1,
        round=number,
        tensors={"model.weight": torch.zeros(1, 13), "model.bias": torch.zeros(1)},
    )


def in_process(node: Node, number: int) -> None:
    """A round in this process."""
    reply = node.handle(request(node, number))
    assert isinstance(reply, TrainReply), reply


async def in_sandbox(workshop: Workshop, node: Node, number: int) -> None:
    """A round in the node's worker, as the node has it done."""
    asked = request(node, number)
    scratch = workshop.scratch()
    sent = scratch / "sent.safetensors"
    sent.write_bytes(b"".join(tensors.encode(asked.tensors)))
    envelope: Any = SimpleNamespace(sender="ada", recipient="node")
    message: Any = None
    (dataset,) = node.registry.datasets()
    answer = await workshop.do(Job(envelope, asked, b"", None, message), dataset, sent, scratch, lambda: None)
    assert isinstance(answer.reply, TrainReply), answer.reply


def first_in_process() -> None:
    """Prints the seconds of the first round of a process that has imported torch and registered the dataset."""
    with tempfile.TemporaryDirectory() as folder:
        (node,) = create_nodes(Path(folder), "fed_heart_disease", centers=[0])
        began = time.perf_counter()
        in_process(node, 1)
        print(time.perf_counter() - began)


async def measure_first(workshop: Workshop, node: Node) -> None:
    """Prints the figures of first rounds."""
    importing, here, there = [], [], []
    for _ in range(FIRST):  # in turns
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import torch"], check=True)
        importing.append(time.perf_counter() - began)
        done = subprocess.run([sys.executable, __file__, "--first"], check=True, capture_output=True, text=True)
        here.append(float(done.stdout))
        workshop.end()
        began = time.perf_counter()
        await in_sandbox(workshop, node, 1)
        there.append(time.perf_counter() - began)
    first, over = min(there), min(there) - min(here)
    print(f"first round, the least of {FIRST}: {first:.2f} s, {over:.2f} s more than in process")
    print(f"a Python that imports torch takes {min(importing):.2f} s (goal: at most {min(importing) + 0.5:.2f} s more)")


async def measure(folder: Path) -> None:
    """Prints the figures."""
    (node,) = create_nodes(folder, "fed_heart_disease", centers=[0])
    workshop = Workshop(node)
    print(workshop.describe())
    await measure_first(workshop, node)
    in_process(node, 1)
    here, there = [], []
    for number in range(2, ROUNDS + 2):  # in turns, so that whatever else this machine does meets both
        began = time.perf_counter()
        in_process(node, number)
        here.append(time.perf_counter() - began)
        began = time.perf_counter()
        await in_sandbox(workshop, node, number)
        there.append(time.perf_counter() - began)
    workshop.end()
    for name, found in (("in process", here), ("sandboxed worker", there)):
        p95 = statistics.quantiles(found, n=20)[-1]
        print(f"{name:>18}: median {statistics.median(found) * 1e3:.2f} ms, 95th percentile {p95 * 1e3:.2f} ms")
    over = statistics.median(b - a for a, b in zip(here, there, strict=True))
    print(f"overhead of a round after the first: median {over * 1e3:.2f} ms (goal: at most 5 ms)")


if __name__ == "__main__":
    if why := sandbox.problem():
        sys.exit(why)
    torch.set_num_threads(1)
    if "--first" in sys.argv:
        first_in_process()
        sys.exit()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder)))
