"""Runs that are killed or stopped go on to the model that they would have had.

This file is also the program that is killed: python test_resume.py COMMAND PLACE FOLDER MARKS WORKERS
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polyclinic import Experiment, InProcessFederation, Observer, ProcessFederation, TorchTrainingPlan
from polyclinic.federation.places import create_nodes

ROUNDS = 16
SLOW_SECONDS = 0.3


class Plan(TorchTrainingPlan):
    """Adam's moments, running statistics and random masks: all that must survive. Slow while a file says so."""

    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = nn.Sequential(nn.Linear(13, 500), nn.BatchNorm1d(500), nn.Dropout(0.2), nn.Linear(500, 1))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=0.01)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        marks = Path(self.model_args["marks"])
        if (marks / "slow").exists():
            (marks / f"{os.getpid()}-{time.monotonic_ns()}").touch()
            time.sleep(self.model_args["seconds"])
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y)


class Announce(Observer):
    def round_ended(self, *, record: Any, **_: Any) -> None:
        print(record.round, flush=True)


def begin_or_go_on(place: Path, folder: Path, marks: Path, workers: int) -> Experiment:
    federation = ProcessFederation(place, workers) if workers else InProcessFederation.at(place)
    if (folder / "experiment.json").exists():
        return Experiment.load(folder, federation=federation, observers=[Announce()])
    return Experiment(
        Plan,
        model_args={"marks": str(marks), "seconds": SLOW_SECONDS},
        training_args={"batch_size": 16, "num_updates": 2, "optimizer_state": "kept", "buffers": "local"},
        round_limit=ROUNDS,
        folder=folder,
        federation=federation,
        observers=[Announce()],
        seed=4,
    )


def kill_again_and_again(place: Path, folder: Path, marks: Path, workers: int) -> None:
    """Runs the experiment in forks of this warm process, and kills each one: begun, between rounds, while writing."""
    # What is imported now need not be imported in each fork.
    import polyclinic.datasets.fed_heart_disease
    import polyclinic.node.local_training

    polyclinic.datasets.fed_heart_disease.FedClass(center=0, train=True)
    Plan({})
    chance = random.Random(8)
    killed_at = []
    for number in range(7):
        done = num_rounds(folder)
        child = os.fork()
        if not child:
            begin_or_go_on(place, folder, marks, workers).run()
            os._exit(0)
        goal = done + (0 if number < 2 else chance.randint(1, 2))
        while num_rounds(folder) < goal or (number % 2 == 0 and not list(folder.rglob("*.tmp"))):
            if os.waitpid(child, os.WNOHANG) != (0, 0):
                sys.exit(f"the run ended before it was killed, after round {num_rounds(folder)}")
        time.sleep(0 if number % 2 == 0 else chance.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed_at.append(num_rounds(folder))
    begin_or_go_on(place, folder, marks, workers).run()
    print("killed after rounds", killed_at)


def num_rounds(folder: Path) -> int:
    return len(list((folder / "rounds").glob("*.json"))) - 1


def main() -> None:
    command, place, folder, marks, workers = sys.argv[1:]
    if command == "kill":
        kill_again_and_again(Path(place), Path(folder), Path(marks), int(workers))
    else:
        begin_or_go_on(Path(place), Path(folder), Path(marks), int(workers)).run()


# ---- the tests


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("nodes")
    create_nodes(place, "fed_heart_disease")
    return place


@pytest.fixture(scope="module")
def uninterrupted(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("uninterrupted")
    experiment = begin_or_go_on(place, folder / "run", folder, 0)
    experiment.run()
    return experiment


@pytest.fixture
def marks(tmp_path: Path) -> Path:
    folder = tmp_path / "marks"
    folder.mkdir()
    return folder


def start(command: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, __file__, command, *map(str, arguments)], text=True, **options)


def assert_same_end(folder: Path, expected: Experiment) -> None:
    """The same model and the same history, to the last bit."""
    found = Experiment.load(folder)
    assert found.round == ROUNDS
    one, other = found.model().state_dict(), expected.model().state_dict()
    assert {name: torch.equal(tensor, other[name]) for name, tensor in one.items()} == dict.fromkeys(other, True)
    assert [(r.round, r.node, r.value) for r in found.history] == [(r.round, r.node, r.value) for r in expected.history]
    assert not any(record.notes for record in found.records)


def test_a_run_that_is_killed_at_any_moment_ends_at_the_same_model(
    place: Path, uninterrupted: Experiment, tmp_path: Path, marks: Path
) -> None:
    with start("kill", place, tmp_path / "run", marks, 0, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        out, err = program.communicate()
    assert program.returncode == 0, err
    assert "killed after rounds" in out
    assert_same_end(tmp_path / "run", uninterrupted)
    assert not list(tmp_path.glob("run/**/*.tmp"))


def interrupt(workers: int, with_signal: int, place: Path, folder: Path, marks: Path) -> tuple[int, str, int, int]:
    """Sends a signal in the middle of round 3's training: exit code, errors, rounds done, batches begun after it."""
    program = start("run", place, folder, marks, workers, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None
    assert program.stderr is not None
    while program.stdout.readline() != "2\n":
        assert program.poll() is None, program.stderr.read()
    (marks / "slow").touch()
    while len(list(marks.iterdir())) < 4:
        time.sleep(0.01)
    program.send_signal(with_signal)
    before = len(list(marks.iterdir()))
    _, err = program.communicate()
    begun = len(list(marks.iterdir())) - before
    (marks / "slow").unlink()
    return program.returncode, err, num_rounds(folder), begun


@pytest.mark.parametrize("workers", [0, 2])
def test_an_interrupt_stops_after_the_batch_and_says_how_to_go_on(
    place: Path, uninterrupted: Experiment, tmp_path: Path, marks: Path, workers: int
) -> None:
    folder = tmp_path / "run"
    code, err, done, begun = interrupt(workers, signal.SIGINT, place, folder, marks)
    assert code == -signal.SIGINT
    assert f"KeyboardInterrupt: round {done + 1} was stopped on request" in err
    assert "run() goes on from there" in err
    assert begun < 4  # a round has 8
    again = begin_or_go_on(place, folder, marks, 0)
    assert again.round == done >= 2
    again.run()
    assert_same_end(folder, uninterrupted)


def test_a_run_in_worker_processes_that_is_killed_leaves_none_and_goes_on(
    place: Path, uninterrupted: Experiment, tmp_path: Path, marks: Path
) -> None:
    folder = tmp_path / "run"
    code, _, done, _ = interrupt(2, signal.SIGKILL, place, folder, marks)
    assert code == -signal.SIGKILL
    workers = {int(path.name.partition("-")[0]) for path in marks.iterdir()}
    assert len(workers) == 2
    while any(map(is_running, workers)):
        time.sleep(0.05)
    again = begin_or_go_on(place, folder, marks, 1)
    assert again.round == done >= 2
    again.run()
    assert_same_end(folder, uninterrupted)


def is_running(pid: int) -> bool:
    """Whether there is such a process; one that has ended and that nobody has asked for its exit code is none."""
    status = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(status.strip()) and not status.strip().startswith("Z")


if __name__ == "__main__":
    main()
