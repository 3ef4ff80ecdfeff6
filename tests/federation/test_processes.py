"""What only worker processes have: pids that end, files that are deleted, and news that must reach them."""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polyclinic import ProcessFederation, TorchTrainingPlan
from polyclinic.errors import ConfigError, FederationError
from polyclinic.federation.in_process import InProcessFederation
from polyclinic.messages.replies import Failure, TrainReply
from polyclinic.messages.requests import PlanText, SearchRequest, TrainRequest
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.node.node import Node
from polyclinic.plans.source import extract_source


class Plan(TorchTrainingPlan):
    """Writes the pid of the process that trains it into the folder ``marks``."""

    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        (Path(self.model_args["marks"]) / str(os.getpid())).touch()
        if self.model_args.get("child"):
            child = os.fork()  # with all open pipes
            if not child:
                time.sleep(600)
            (Path(self.model_args["marks"]) / str(child)).touch()
            os._exit(1)
        time.sleep(self.model_args.get("seconds", 0))
        return (self.model(x) - y).square().mean()


SOURCE = extract_source(Plan)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("north", "south"):
        table = tmp_path / f"{name}.csv"
        table.write_text("a,b,target\n" + "".join(f"{k},{k % 3},{k % 2}.5\n" for k in range(40)))
        register(Node.create(tmp_path / "nodes", name), table)
    (tmp_path / "marks").mkdir()
    return tmp_path / "nodes"


def register(node: Node, table: Path, **options: Any) -> None:
    node.registry.add("tabular", {"path": str(table), "target": "target"} | options, tags=["t"], name="table")


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    return tmp_path / "marks"


@pytest.fixture
def federation(place: Path) -> Iterator[ProcessFederation]:
    federation = ProcessFederation(place, workers=2)
    yield federation
    federation.close()


def train(marks: Path, nodes: tuple[str, ...] = ("north", "south"), **model_args: Any) -> dict[str, TrainRequest]:
    tensors = {"model.weight": torch.zeros(1, 2), "model.bias": torch.zeros(1)}
    return {
        node_id: TrainRequest(
            request_id=uuid.uuid4().hex,
            experiment_id="e",
            dataset_id="table",
            plan=PlanText(text=SOURCE.text, class_name=SOURCE.class_name),
            model_args={"marks": str(marks), **model_args},
            training_args=TrainingArgs(batch_size=40, epochs=1),
            seed=0,
            round=1,
            tensors=tensors,
        )
        for node_id in nodes
    }


def pids(marks: Path) -> set[int]:
    return {int(path.name) for path in marks.iterdir()}


def wait_until_gone(processes: set[int]) -> None:
    for pid in processes:
        while is_running(pid):
            time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that has ended and that nobody has asked for its exit code is none."""
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(status.strip()) and not status.strip().startswith("Z")


def test_workers_live_over_rounds_and_end_with_close(federation: ProcessFederation, marks: Path) -> None:
    for _ in range(3):
        assert all(isinstance(reply, TrainReply) for reply in federation.send(train(marks)))
    workers = pids(marks)
    assert len(workers) == 2
    assert os.getpid() not in workers
    assert all(map(is_running, workers))
    federation.close()
    assert not any(map(is_running, workers))
    assert len(list(federation.send(train(marks)))) == 2
    assert len(pids(marks) - workers) == 2


def test_workers_end_with_a_federation_that_nobody_holds(place: Path, marks: Path) -> None:
    federation = ProcessFederation(place, workers=1)
    list(federation.send(train(marks)))
    assert len(pids(marks)) == 1
    del federation
    gc.collect()
    assert not any(map(is_running, pids(marks)))


def test_what_a_plan_started_ends_with_its_worker(federation: ProcessFederation, marks: Path) -> None:
    replies = list(federation.send(train(marks, ("north",), child=True)))
    assert [type(reply) for reply in replies] == [Failure]
    assert len(pids(marks)) == 2
    wait_until_gone(pids(marks))


def test_a_program_that_is_killed_leaves_neither_workers_nor_files(place: Path, marks: Path, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        SOURCE.text
        + "\nfrom polyclinic import Experiment, ProcessFederation\n"
        + f"federation = ProcessFederation({str(place)!r}, workers=2)\n"
        + f"experiment = Experiment({SOURCE.class_name}, tags=['t'], federation=federation, observers=[],\n"
        + f"    model_args={{'marks': {str(marks)!r}, 'seconds': 600}}, training_args=dict(epochs=1, batch_size=40))\n"
        + "experiment.run()\n"
    )
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen([sys.executable, program], cwd=tmp_path, env={**os.environ, "TMPDIR": str(scratch)})
    while len(pids(marks)) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    assert list(scratch.glob("polyclinic-round-*/sent-*"))
    process.kill()
    process.wait()
    wait_until_gone(pids(marks))
    assert not list(scratch.glob("polyclinic-round-*"))


def test_what_is_registered_anew_reaches_workers_that_know_the_old(
    federation: ProcessFederation, marks: Path, place: Path, tmp_path: Path
) -> None:
    search = {"north": SearchRequest(request_id="s", tags=("t",))}
    list(federation.send(search))
    (before,) = federation.send(train(marks, ("north",)))
    registry = Node.open(place / "north").registry
    registry.remove("table")
    (tmp_path / "north.csv").write_text("a,b,target\n" + "".join(f"{k},{k % 3},{k % 2}.5\n" for k in range(20)))
    register(Node.open(place / "north"), tmp_path / "north.csv")
    list(federation.send(search))
    (after,) = federation.send(train(marks, ("north",)))
    assert isinstance(before, TrainReply)
    assert isinstance(after, TrainReply)
    assert after.num_samples < before.num_samples
    assert len(pids(marks)) == 1


def test_a_node_folder_that_vanishes_is_a_failure(federation: ProcessFederation, marks: Path, place: Path) -> None:
    (place / "south" / "node.sqlite").rename(place / "elsewhere")
    replies = {reply.node_id: reply for reply in federation.send(train(marks))}
    assert isinstance(replies["north"], TrainReply)
    failure = replies["south"]
    assert isinstance(failure, Failure)
    assert "is no node's folder" in failure.what
    assert failure.code == "node"


def test_a_full_temporary_folder_is_a_failure_of_all(
    federation: ProcessFederation, marks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_tensors: Any) -> list[bytes]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("polyclinic.federation.processes.tensors.encode", full)
    replies = list(federation.send(train(marks)))
    assert [reply.node_id for reply in replies] == ["north", "south"]
    assert all(isinstance(r, Failure) and "No space left" in r.what and "TMPDIR" in r.to_do for r in replies)
    monkeypatch.undo()
    assert all(isinstance(reply, TrainReply) for reply in federation.send(train(marks)))


def test_the_place_is_the_users_own_by_default(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYCLINIC_FEDERATION", str(place))
    assert [node.name for node in ProcessFederation(workers=1).nodes()] == ["north", "south"]


def test_no_workers_are_refused(place: Path) -> None:
    with pytest.raises(ConfigError, match="at least one worker, got 0"):
        ProcessFederation(place, workers=0)


def test_a_copied_node_folder_is_refused(place: Path) -> None:
    shutil.copytree(place / "north", place / "north-2")
    with pytest.raises(FederationError, match="two nodes have the id 'north'") as caught:
        InProcessFederation.at(place)
    assert "must not be copied" in caught.value.to_do
