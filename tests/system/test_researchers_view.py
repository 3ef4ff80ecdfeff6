"""What a researcher sees of hospitals at work, and that each researcher gets their turn, through real processes.

This file is also a researcher's program: python -m tests.system.test_researchers_view IDENTITY FOLDER MARKS NAME OTHER
COUNT, which has COUNT experiments under way at the same time.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polyclinic import Experiment, Observer, TorchTrainingPlan
from polyclinic.federation.node_state import NodeState
from polyclinic.federation.over_nats.identity import Identity, choose_hub, hub_folder
from polyclinic.federation.over_nats.researcher import NatsFederation
from polyclinic.federation.over_nats.trust import Trust
from tests.system.hospitals import (
    NAMES,
    NODES,
    PATIENCE,
    Hospitals,
    assert_same_end,
    experiment,
    in_background,
    in_this_process,
    until,
)

NODE = NODES[0]


class Seeing(Observer):
    """Remembers what nodes were at, by name."""

    def __init__(self) -> None:
        self.states: dict[str, list[NodeState]] = {name: [] for name in NAMES}

    def node_state(self, *, node: str, state: NodeState, **_: Any) -> None:
        self.states[node].append(state)

    def said(self, node: str) -> list[str]:
        return [state.describe() for state in self.states[node]]


def command(hospitals: Hospitals, *words: str) -> str:
    """What a command of ours prints."""
    line = [sys.executable, "-m", "polyclinic", *words, "--at", str(hospitals.tries.place)]
    environment = {**os.environ, "COLUMNS": "250"}
    return subprocess.run(line, capture_output=True, text=True, check=True, env=environment).stdout


@contextmanager
def trusted_researcher(hospitals: Hospitals, name: str) -> Iterator[Path]:
    """A researcher that both nodes trust meanwhile; the folder of their identity."""
    folder = hospitals.tries.join_researcher(name)
    me = Identity.load(folder)
    for node in NODES:
        place = hospitals.tries.place / node
        Trust.load(place).plus(me.party_id, me.keys.public_key).save(place)
    yield folder
    for node in NODES:
        place = hospitals.tries.place / node
        Trust.load(place).without(me.party_id).save(place)


# ---- what is seen


def test_a_researcher_sees_hospitals_train_and_the_model_is_the_same(hospitals: Hospitals, tmp_path: Path) -> None:
    args = {"batch_size": 16, "num_updates": 150, "update_compression": "int8"}
    seeing = Seeing()
    found = experiment(
        hospitals.federation, tmp_path / "run", hospitals.marks, round_limit=1, training_args=dict(args), ballast=10
    )
    found._observers = [seeing]
    (hospitals.marks / "stoppable").touch()
    hospitals.wait(True)  # each step takes a while now
    end = in_background(found.run)
    until(lambda: (task := hospitals.status(NODE).task) and ", batch " in task.state, "the hospital sees how far it is")
    assert end() is None
    for name in NAMES:
        trained = [state for state in seeing.states[name] if state.progress]
        assert {state.state for state in trained} == {"training"}
        assert all(state.progress and state.progress.num_batches == 150 for state in trained)
        # Until enough patients were seen, a node keeps the loss to itself.
        told = [state.progress.loss for state in trained if state.progress and not math.isnan(state.progress.loss)]
        assert all(0.3 < loss < 1.5 for loss in told)
    expected = in_this_process(tmp_path / "here", round_limit=1, training_args=dict(args), ballast=10)
    assert_same_end(found, expected)


def test_absence_and_return_of_a_node_are_seen(hospitals: Hospitals, tmp_path: Path) -> None:
    seeing = Seeing()
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks, round_limit=1)
    found._observers = [seeing]
    hospitals.wait(True)
    end = in_background(found.run)
    hospitals.training()
    hospitals.tries.kill(NODES[1], signal.SIGSTOP)
    until(lambda: seeing.states[NAMES[1]] and seeing.states[NAMES[1]][-1].state == "offline", "absence is seen")
    # No later than ten seconds after its last heartbeat, by the clock of the one who sees it.
    assert seeing.said(NAMES[1])[-1].startswith("offline since ")
    hub = hub_folder(hospitals.tries.place, "seen")
    if not hub.exists():
        hub.parent.mkdir(parents=True, exist_ok=True)
        hub.symlink_to(hospitals.identity, target_is_directory=True)
    choose_hub(hospitals.tries.place, "seen")
    shown = command(hospitals, "federation", "show")
    choose_hub(hospitals.tries.place, None)
    assert "Nodes of the hub 'try out', seen by 'ada'" in shown
    lines = {line.split("│")[1].strip(): line for line in shown.splitlines() if line.startswith("│")}
    assert "training for ada" in lines[NODES[0]]
    assert "offline" in lines[NODES[1]]
    assert all("fed_heart_disease" in lines[node] for node in NODES)
    hospitals.tries.kill(NODES[1], signal.SIGCONT)
    until(lambda: seeing.states[NAMES[1]][-1].state != "offline", "return is seen")
    hospitals.wait(False)
    assert end() is None
    assert "offline" not in {state.state for state in seeing.states[NAMES[0]]}


def test_who_waits_sees_who_is_before_them_and_so_does_the_hospital(hospitals: Hospitals, tmp_path: Path) -> None:
    hospitals.wait(True)
    first = in_background(
        experiment(hospitals.federation, tmp_path / "ada", hospitals.marks, nodes=[NODE], round_limit=1).run
    )
    hospitals.training(1)
    with trusted_researcher(hospitals, "dan") as folder:
        federation, seeing = NatsFederation(folder), Seeing()
        found = experiment(federation, tmp_path / "dan", hospitals.marks, nodes=[NODE], round_limit=1)
        found._observers = [seeing]
        second = in_background(found.run)
        until(lambda: "waiting, 1 before it (ada)" in seeing.said(NAMES[0]), "dan sees who is before him")
        waiting = f"  1. train of experiment {found._spec.experiment_id}, round 1, for dan"
        until(lambda: waiting in command(hospitals, "node", "status", NODE), "the hospital sees who waits")

        def of_hub() -> str:
            return federation.overview().rows[0][1]

        until(lambda: of_hub() == "training for ada; 1 waiting (1 of dan)", "the queue is seen in the overview")
        hospitals.wait(False)
        assert first() is None
        assert second() is None
        federation.close()
    assert len(found.records) == 2  # it was his turn then


# ---- turns


class Turns(TorchTrainingPlan):
    """Marks each turn, and lets it last until the other researcher waits as well, or has ended."""

    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = nn.Linear(13, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        marks, me, other = Path(self.model_args["marks"]), self.model_args["me"], self.model_args["other"]
        mark, told = marks / f"turn-{time.time_ns()}-{me}", Path(self.model_args["status"])
        mark.touch()
        while not (marks / f"done-{other}").exists():
            # What was told before this turn says nothing of it.
            if told.stat().st_mtime_ns > mark.stat().st_mtime_ns:
                waiting = json.loads(told.read_text())["waiting"]
                if (other, "train-request/1") in [(task["researcher"], task["kind"]) for task in waiting]:
                    break
            time.sleep(0.02)
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y)


def main() -> None:
    identity, folder, marks, status = map(Path, sys.argv[1:5])
    me, other, count = sys.argv[5], sys.argv[6], int(sys.argv[7])
    federation = NatsFederation(identity)

    def run(number: int) -> None:
        Experiment(
            Turns,
            model_args={"marks": str(marks), "me": me, "other": other, "status": str(status)},
            tags=["fed_heart_disease"],
            nodes=[NODE],
            federation=federation,
            training_args={"batch_size": 16, "num_updates": 1},
            round_limit=2,
            folder=folder / f"{me}-{number}",
            observers=[],
        ).run()

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (marks / f"done-{me}").touch()
    federation.close()


def test_two_researchers_take_turns_and_many_requests_of_one_do_not_starve_the_other(
    hospitals: Hospitals, tmp_path: Path
) -> None:
    status = hospitals.tries.place / NODE / "status.json"

    def program(identity: Path, me: str, other: str, count: int) -> subprocess.Popen[bytes]:
        words = [str(identity), str(tmp_path), str(hospitals.marks), str(status), me, other, str(count)]
        return subprocess.Popen(
            [sys.executable, "-m", "tests.system.test_researchers_view", *words],
            env=hospitals.tries.environment("researcher"),
        )

    with (
        trusted_researcher(hospitals, "carol") as carol,
        program(hospitals.identity, "ada", "carol", 3) as busy,
        program(carol, "carol", "ada", 1) as other,
    ):
        assert (busy.wait(PATIENCE), other.wait(PATIENCE)) == (0, 0)
    turns = [path.name.rpartition("-")[2] for path in sorted(hospitals.marks.glob("turn-*"))]
    assert (turns.count("ada"), turns.count("carol")) == (6, 2)
    # While both had something to do: never twice the same.
    together = turns[: len(turns) - turns[::-1].index("carol")]
    assert all(one != two for one, two in itertools.pairwise(together)), turns


# ---- the end


def test_ctrl_c_twice_ends_the_program_and_leaves_the_nodes_clean(hospitals: Hospitals, tmp_path: Path) -> None:
    hospitals.wait(True)
    with hospitals.researcher(tmp_path / "run", "end") as program:
        hospitals.training()
        children = Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text().split()
        for _ in range(2):
            for pid in children:
                os.kill(int(pid), signal.SIGINT)
            time.sleep(0.1)
        assert program.stdout is not None
        assert b"end ended with 1" in program.stdout.read()
    # The plans wait for ever; the nodes end them.
    until(lambda: all(hospitals.status(node).task is None for node in NODES), "an end of all work")
    hospitals.wait(False)
    for mark in hospitals.marks.iterdir():
        mark.unlink()
    found = experiment(hospitals.federation, tmp_path / "next", hospitals.marks, round_limit=1)
    found.run()
    assert found.records[-1].nodes == NAMES


if __name__ == "__main__":
    main()
