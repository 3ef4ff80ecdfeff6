"""A node, and a plan that does whatever its arguments say, for tests of what contains plans."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from polyclinic import tensors
from polyclinic.federation.over_nats.node_work import Job, Workshop
from polyclinic.federation.places import create_nodes
from polyclinic.messages.replies import Failure
from polyclinic.messages.requests import PlanText, TrainRequest
from polyclinic.messages.training_args import TrainingArgs

# What the attacks do is Python in `model_args`: all rounds of a test share one worker, as an experiment's rounds do.
PLAN = """
import torch
from polyclinic import TorchTrainingPlan

class Hostile(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = torch.nn.Linear(13, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

    def training_step(self, x, y):
        found = {}
        exec(self.model_args["act"], {"found": found})
        if found:
            import json
            raise RuntimeError("FOUND" + json.dumps(found, default=str))
        return self.model(x).square().mean()
"""

POLICY = """
[resources]
memory_gb = 1.5
processes = 8
file_gb = 0.02
wall_hours = 0.02
output_mb = 0.1
"""


class Hospital:
    """A node with two datasets and a key, and its workshop."""

    def __init__(self, folder: Path, policy: str = POLICY) -> None:
        self.node, self.other = create_nodes(folder / "nodes", "fed_heart_disease", centers=[0, 1])
        assert self.node.folder is not None
        self.folder = self.node.folder
        secret = folder / "other" / "secret.csv"
        secret.parent.mkdir()
        secret.write_text("patient,outcome\n1,SECRET-ROW\n")
        self.secret = secret
        self.key = self.folder / "identity" / "key.nk"
        self.key.parent.mkdir(exist_ok=True)
        self.key.write_text("SECRET-SEED")
        (self.folder / "policy.toml").write_text(policy)
        (self.folder / "policy.toml").chmod(0o600)
        self.workshop = Workshop(self.node)
        self.count = 0

    def run(self, act: str, *, experiment: str = "e1", stop_after: float | None = None) -> Any:
        """The answer to one round in which the plan does this, with its tensors' file."""
        self.count += 1
        dataset = self.node.registry.datasets()[0]
        request = TrainRequest(
            request_id=f"r{self.count}",
            experiment_id=experiment,
            dataset_id=dataset.dataset_id,
            plan=PlanText(text=PLAN, class_name="Hostile"),
            model_args={"act": act},
            training_args=TrainingArgs(batch_size=512, num_updates=1),
            seed=1,
            round=1,
            tensors={"model.weight": torch.zeros(1, 13), "model.bias": torch.zeros(1)},
        )
        scratch = self.workshop.scratch()
        sent = scratch / "sent.safetensors"
        sent.write_bytes(b"".join(tensors.encode(request.tensors)))
        envelope: Any = SimpleNamespace(sender="ada", recipient="me")
        message: Any = None

        async def do() -> Any:
            job = Job(envelope, request, b"", None, message)
            if stop_after is not None:
                asyncio.get_running_loop().call_later(stop_after, job.stop.set)
            return await self.workshop.do(job, dataset, sent, scratch, lambda: None)

        return asyncio.run(do())

    def found(self, act: str) -> dict[str, Any]:
        """What the plan found out."""
        reply = self.run(act).reply
        assert isinstance(reply, Failure)
        assert "FOUND" in reply.what, reply
        found: dict[str, Any] = json.loads(reply.what.partition("FOUND")[2])
        return found

    def worker(self) -> int:
        """The process id of the only worker."""
        (boxed,) = self.workshop._boxes._boxes.values()
        return boxed.worker.pid
