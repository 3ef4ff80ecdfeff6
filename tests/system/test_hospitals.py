"""A real federation on a bad day: its hub, nodes and researcher are killed, frozen and cut off, each at the worst
time. Every round ends, nothing is trained twice, and the model is the one of this process, bit for bit.

This file is also the researcher that is killed: python test_hospitals.py IDENTITY FOLDER MARKS
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polyclinic import Experiment, InProcessFederation, TorchTrainingPlan
from polyclinic.errors import Cancelled, RoundFailed
from polyclinic.federation.hub.status import look
from polyclinic.federation.over_nats.researcher import NatsFederation
from polyclinic.federation.over_nats.status import NodeStatus
from polyclinic.federation.places import create_nodes
from polyclinic.federation.try_out import TryOut

# Real processes that are killed and frozen: with other tests beside them on two cores, some come too late. See the page
# of the real federation.
pytestmark = pytest.mark.skipif(
    "POLYCLINIC_TEST_HOSPITALS" not in os.environ, reason="needs a quiet machine; set POLYCLINIC_TEST_HOSPITALS=1"
)

NODES = ("cleveland", "hungary")
NAMES = ("Cleveland", "Hungary")
ROUNDS = 3


class Plan(TorchTrainingPlan):
    """Says when it trains and for whom, and waits while a file tells it to."""

    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = nn.Sequential(nn.Linear(13, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        # More than travels inside of a message.
        self.ballast = nn.Parameter(torch.linspace(-1, 1, 100_000))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=0.01)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        marks = Path(self.model_args["marks"])
        (marks / f"step-{len(x)}-{os.getpid()}-{time.monotonic_ns()}").touch()
        while (marks / "wait").exists():
            (marks / f"waiting-{os.getpid()}").touch()
            time.sleep(0.05)
            if (marks / "stoppable").exists():
                break
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y) + self.ballast.square().mean()


def experiment(federation: Any, folder: Path, marks: Path, **settings: Any) -> Experiment:
    settings = {"round_limit": ROUNDS, "training_args": {"batch_size": 16, "num_updates": 2}} | settings
    settings["training_args"]["optimizer_state"] = "kept"
    return Experiment(
        Plan,
        model_args={"marks": str(marks)},
        tags=["fed_heart_disease"],
        folder=folder,
        federation=federation,
        observers=[],
        seed=4,
        **settings,
    )


def main() -> None:
    identity, folder, marks = map(Path, sys.argv[1:])
    federation = NatsFederation(identity)
    if (folder / "experiment.json").exists():
        Experiment.load(folder, federation=federation, observers=[]).run()
    else:
        experiment(federation, folder, marks).run()


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


class Hospitals:
    """The hub, the nodes, a researcher, and what plans have marked."""

    def __init__(self, tries: TryOut, identity: Path) -> None:
        self.tries = tries
        self.identity = identity
        self.federation = NatsFederation(identity)
        self.marks = tries.folder / "marks"

    def wait(self, yes: bool) -> None:
        if yes:
            (self.marks / "wait").touch()
        else:
            (self.marks / "wait").unlink(missing_ok=True)

    def training(self, count: int = len(NODES)) -> None:
        """Until so many nodes are in the middle of a training."""
        until(lambda: len(list(self.marks.glob("waiting-*"))) >= count)

    def steps(self) -> int:
        return len(list(self.marks.glob("step-*")))

    def status(self, node: str) -> NodeStatus:
        status = NodeStatus.read(self.tries.place / node)
        assert status is not None
        return status

    def log(self, name: str) -> str:
        return (self.tries.folder / f"{name}.log").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospitals]:
    folder = tmp_path_factory.mktemp("hospitals")
    with TryOut(folder) as tries:
        create_nodes(tries.place, "fed_heart_disease", centers=[0, 1])
        tries.start_hub()
        researcher = tries.join_researcher("ada")
        for node in NODES:
            tries.join_node(node, [researcher])
            tries.start_node(node, "--show-errors", wait=False)
        for node in NODES:
            tries.wait_for_node(node)
        found = Hospitals(tries, researcher)
        yield found
        found.federation.close()


@pytest.fixture
def hospitals(running: Hospitals) -> Iterator[Hospitals]:
    running.marks.mkdir(exist_ok=True)
    for mark in running.marks.iterdir():
        mark.unlink()
    yield running
    running.wait(False)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """The same experiment in this process."""
    folder = tmp_path_factory.mktemp("expected")
    create_nodes(folder / "nodes", "fed_heart_disease", centers=[0, 1])
    (folder / "marks").mkdir()
    found = experiment(InProcessFederation.at(folder / "nodes"), folder / "run", folder / "marks")
    found.run()
    return found


def assert_same_end(found: Experiment, expected: Experiment) -> None:
    one, other = found.model().state_dict(), expected.model().state_dict()
    assert {name: torch.equal(tensor, other[name]) for name, tensor in one.items()} == dict.fromkeys(other, True)
    assert [(r.round, r.node, r.value) for r in found.history] == [(r.round, r.node, r.value) for r in expected.history]


def in_background(run: Callable[[], Any]) -> Callable[[], BaseException | None]:
    """Runs it in a thread; what is returned waits for the end, and returns the error."""
    error: list[BaseException] = []

    def target() -> None:
        try:
            run()
        except BaseException as err:
            error.append(err)

    thread = threading.Thread(target=target)
    thread.start()

    def wait() -> BaseException | None:
        thread.join(120)
        assert not thread.is_alive()
        return error[0] if error else None

    return wait


def test_the_model_is_that_of_this_process(hospitals: Hospitals, expected: Experiment, tmp_path: Path) -> None:
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks)
    found.run()
    assert_same_end(found, expected)
    assert hospitals.steps() == len(NODES) * ROUNDS * 2


def test_a_node_that_is_killed_in_training_goes_on_when_it_is_started_again(
    hospitals: Hospitals, expected: Experiment, tmp_path: Path
) -> None:
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks)
    found.run_round()
    hospitals.wait(True)
    end = in_background(found.run)
    hospitals.training()
    hospitals.tries.kill(NODES[0])
    hospitals.wait(False)
    hospitals.tries.start_again(NODES[0])
    assert end() is None
    assert_same_end(found, expected)


def test_the_hub_is_killed_in_training_and_comes_back(
    hospitals: Hospitals, expected: Experiment, tmp_path: Path
) -> None:
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks)
    found.run_round()
    hospitals.wait(True)
    end = in_background(found.run)
    hospitals.training()
    hospitals.tries.kill("hub")
    # Nodes end their training while there is no hub.
    hospitals.wait(False)
    until(lambda: hospitals.steps() >= len(NODES) * 4)
    hospitals.tries.start_again("hub")
    assert end() is None
    assert_same_end(found, expected)
    assert hospitals.steps() == len(NODES) * ROUNDS * 2


def test_a_researcher_who_is_killed_in_a_round_finds_the_replies_that_came_meanwhile(
    hospitals: Hospitals, expected: Experiment, tmp_path: Path
) -> None:
    command = [sys.executable, __file__, str(hospitals.identity), str(tmp_path / "run"), str(hospitals.marks)]
    hospitals.wait(True)
    with subprocess.Popen(command) as program:
        hospitals.training()
        program.kill()
    hospitals.wait(False)
    until(lambda: all(hospitals.status(node).task is None for node in NODES))
    assert hospitals.steps() == len(NODES) * 2
    # Its replies are at the hub, so the nodes need not even be there for this round.
    for node in NODES:
        hospitals.tries.kill(node, signal.SIGSTOP)
    with subprocess.Popen(command) as program:
        until(lambda: (tmp_path / "run" / "rounds" / "000001.json").exists())
        for node in NODES:
            hospitals.tries.kill(node, signal.SIGCONT)
        assert program.wait(120) == 0
    assert_same_end(Experiment.load(tmp_path / "run"), expected)
    assert hospitals.steps() == len(NODES) * ROUNDS * 2


def test_a_node_that_is_frozen_is_missed_and_its_late_reply_counts_nowhere(
    hospitals: Hospitals, tmp_path: Path
) -> None:
    federation = NatsFederation(hospitals.identity)
    found = experiment(federation, tmp_path / "run", hospitals.marks, min_nodes=1, deadline_seconds=20.0, round_limit=2)
    hospitals.wait(True)
    end = in_background(found.run_round)
    hospitals.training()
    hospitals.tries.kill(NODES[1], signal.SIGSTOP)
    until(lambda: not federation._directory.nodes[NODES[1]].is_there)
    hospitals.wait(False)
    assert end() is None
    assert found.records[-1].nodes == NAMES[:1]
    assert [(f.node, f.code) for f in found.records[-1].failures] == [(NAMES[1], "deadline")]
    hospitals.tries.kill(NODES[1], signal.SIGCONT)
    until(lambda: federation._directory.nodes[NODES[1]].is_there)
    found.run_round()
    assert found.records[-1].nodes == NAMES
    federation.close()


def test_cancel_reaches_nodes_at_work_and_the_run_goes_on_later(
    hospitals: Hospitals, expected: Experiment, tmp_path: Path
) -> None:
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks)
    (hospitals.marks / "wait").touch()
    (hospitals.marks / "stoppable").touch()
    longer = experiment(
        hospitals.federation,
        tmp_path / "longer",
        hospitals.marks,
        training_args={"batch_size": 16, "num_updates": 100_000},
    )
    end = in_background(longer.run)
    hospitals.training()
    longer.cancel()
    assert isinstance(end(), Cancelled)
    until(lambda: all(hospitals.status(node).task is None for node in NODES))
    for mark in hospitals.marks.iterdir():
        mark.unlink()
    found.run()
    assert_same_end(found, expected)


def test_a_task_that_the_hospital_stops_fails_at_this_node_only(hospitals: Hospitals, tmp_path: Path) -> None:
    (hospitals.marks / "wait").touch()
    (hospitals.marks / "stoppable").touch()
    longer = experiment(
        hospitals.federation,
        tmp_path / "run",
        hospitals.marks,
        training_args={"batch_size": 16, "num_updates": 100_000},
    )
    end = in_background(longer.run)
    hospitals.training()
    for node in NODES:
        command = ["node", "stop-task", node, "--at", str(hospitals.tries.place)]
        subprocess.run([sys.executable, "-m", "polyclinic", *command], check=True, capture_output=True)
    error = end()
    assert isinstance(error, RoundFailed)
    assert error.codes == {"node"}
    assert "the task was stopped at the hospital" in str(error)


def test_searches_are_answered_while_a_node_trains(hospitals: Hospitals, tmp_path: Path) -> None:
    hospitals.wait(True)
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks, round_limit=1)
    end = in_background(found.run)
    hospitals.training()
    other = experiment(hospitals.federation, tmp_path / "other", hospitals.marks, nodes=["hungary"], round_limit=1)
    later = in_background(other.run)
    until(lambda: hospitals.status("hungary").queue == {"ada": 1})
    hospitals.wait(False)
    assert end() is None
    assert later() is None


def test_little_is_left_at_the_hub(hospitals: Hospitals, tmp_path: Path) -> None:
    def stored() -> dict[str, int]:
        return {name: number for name, (number, _) in asyncio.run(look(hospitals.tries.hub)).stored.items()}

    before = stored()
    for number in range(2):
        experiment(hospitals.federation, tmp_path / f"run-{number}", hospitals.marks).run()
    until(lambda: stored() == before)


if __name__ == "__main__":
    main()
