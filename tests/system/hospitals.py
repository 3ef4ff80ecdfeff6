"""Hospitals to be hard on: a hub, two nodes and a researcher in processes of their own, and a plan that tells what it
does. The second node and the researcher are connected through proxies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polyclinic import Experiment, InProcessFederation, TorchTrainingPlan
from polyclinic.federation.over_nats.identity import Identity, node_identity_folder
from polyclinic.federation.over_nats.researcher import NatsFederation
from polyclinic.federation.over_nats.status import NodeStatus
from polyclinic.federation.places import create_nodes
from polyclinic.federation.try_out import OPEN, TryOut
from tests.system.proxy import Proxy

NODES = ("cleveland", "hungary")
NAMES = ("Cleveland", "Hungary")
ROUNDS = 3
STEPS = 2  # of a node in a round
# Nothing here is about time: this only ends what would never end.
PATIENCE = 180.0


class Plan(TorchTrainingPlan):
    """Marks each step that it takes, and waits while a file tells it to."""

    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = nn.Sequential(nn.Linear(13, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        # More than travels inside of a message: two chunks, or as many as are wanted.
        self.ballast = nn.Parameter(torch.linspace(-1, 1, model_args.get("ballast", 300_000)))
        self.optimizer = torch.optim.Adam(self.parameters(), lr=0.01)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        marks = Path(self.model_args["marks"])
        (marks / f"step-{os.getpid()}-{time.monotonic_ns()}").touch()
        while (marks / "wait").exists():
            (marks / f"waiting-{os.getpid()}").touch()
            time.sleep(0.02)
            if (marks / "stoppable").exists():
                break
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y) + self.ballast.square().mean()


def experiment(federation: Any, folder: Path, marks: Path, *, ballast: int = 300_000, **settings: Any) -> Experiment:
    """One that is the same wherever it runs."""
    settings = {"round_limit": ROUNDS, "training_args": {"batch_size": 16, "num_updates": STEPS}} | settings
    settings["training_args"]["optimizer_state"] = "kept"
    return Experiment(
        Plan,
        model_args={"marks": str(marks), "ballast": ballast},
        tags=["fed_heart_disease"],
        folder=folder,
        federation=federation,
        observers=[],
        seed=4,
        **settings,
    )


def in_this_process(folder: Path, **settings: Any) -> Experiment:
    """The experiment without any hub, done."""
    create_nodes(folder / "nodes", "fed_heart_disease", centers=[0, 1])
    (folder / "marks").mkdir(parents=True)
    found = experiment(InProcessFederation.at(folder / "nodes"), folder / "run", folder / "marks", **settings)
    found.run()
    return found


def assert_same_end(found: Experiment, expected: Experiment) -> None:
    """That nothing was lost, and nothing counted twice: the models are the same, bit for bit, and all losses are."""
    one, other = found.model().state_dict(), expected.model().state_dict()
    assert {name: torch.equal(tensor, other[name]) for name, tensor in one.items()} == dict.fromkeys(other, True)
    assert [(r.round, r.node, r.value) for r in found.history] == [(r.round, r.node, r.value) for r in expected.history]


def until(condition: Callable[[], Any], what: str = "it") -> None:
    """Waits for a condition."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} does not happen"
        time.sleep(0.05)


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
        thread.join(PATIENCE)
        assert not thread.is_alive(), "it does not end"
        return error[0] if error else None

    return wait


class Hospitals:
    """Use it in a ``with`` statement.

    Args:
        folder: for all files.
        tries: what starts the processes; default: all on 127.0.0.1.
    """

    def __init__(self, folder: Path, tries: TryOut | None = None) -> None:
        self.tries = tries or TryOut(folder, policy=OPEN)
        self.marks = folder / "marks"

    def __enter__(self) -> Hospitals:
        with ExitStack() as stack:
            stack.enter_context(self.tries)
            create_nodes(self.tries.place, "fed_heart_disease", centers=[0, 1])
            self.tries.start_hub()
            self.identity = self.tries.join_researcher("ada")
            self.line = stack.enter_context(Proxy(self.tries.port))
            self.node_line = stack.enter_context(Proxy(self.tries.port))
            dial(self.identity, self.line)
            for node in NODES:
                self.tries.join_node(node, [self.identity])
            dial(node_identity_folder(self.tries.place / NODES[1]), self.node_line)
            for node in NODES:
                self.tries.start_node(node, wait=False)
            for node in NODES:
                self.tries.wait_for_node(node)
            self.federation = NatsFederation(self.identity)
            stack.callback(self.federation.close)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def restore(self) -> None:
        """All as it was at first, whatever a test did or left undone."""
        self.marks.mkdir(exist_ok=True)
        self.wait(False)
        for line in (self.line, self.node_line):
            line.reset()
        for name in ("hub", *NODES):
            if self.tries.processes[name].poll() is not None:
                self.tries.start_again(name)
            self.tries.kill(name, signal.SIGCONT)
        until(lambda: all(self.status(node).task is None for node in NODES), "the end of all work")
        for mark in self.marks.iterdir():
            mark.unlink()

    def wait(self, yes: bool) -> None:
        """Whether plans wait in their next step."""
        if yes:
            (self.marks / "wait").touch()
        else:
            (self.marks / "wait").unlink(missing_ok=True)

    def training(self, count: int = len(NODES)) -> None:
        """Until so many nodes are in the middle of a training."""
        until(lambda: len(list(self.marks.glob("waiting-*"))) >= count, "training")

    def steps(self) -> int:
        """How many steps were taken, at all nodes together."""
        return len(list(self.marks.glob("step-*")))

    def status(self, node: str) -> NodeStatus:
        """What the node tells of itself."""
        end = time.monotonic() + PATIENCE
        while (found := NodeStatus.read(self.tries.place / node)) is None:
            assert time.monotonic() < end, f"{node} does not run"
            time.sleep(0.05)
        return found

    def log(self, name: str) -> str:
        """What the hub or a node has said."""
        return (self.tries.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def kill_hub(self) -> None:
        """kill -9 of the hub and its server, neither of which has time for a last word."""
        hub = self.tries.processes["hub"].pid
        children = Path(f"/proc/{hub}/task/{hub}/children")
        server = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        os.killpg(hub, signal.SIGSTOP)  # else it would start its server again
        for pid in server:
            os.kill(pid, signal.SIGKILL)
        self.tries.kill("hub")

    def researcher(self, folder: Path, *stages: str, identity: Path | None = None) -> subprocess.Popen[bytes]:
        """A researcher's program in a process of its own: `tests.system.researcher`."""
        words = [str(identity or self.identity), str(folder), str(self.marks), *stages]
        command = [sys.executable, "-m", "tests.system.researcher", *words]
        return subprocess.Popen(
            self.tries.command("researcher", command), env=self.tries.environment("researcher"), stdout=subprocess.PIPE
        )


class Rooms(Hospitals):
    """No proxies: each party dials the hub's own address, from its own."""

    def __enter__(self) -> Rooms:
        with ExitStack() as stack:
            stack.enter_context(self.tries)
            create_nodes(self.tries.place, "fed_heart_disease", centers=[0, 1])
            self.tries.start_hub()
            self.identity = self.tries.join_researcher("ada")
            for node in NODES:
                self.tries.join_node(node, [self.identity])
                self.tries.start_node(node, wait=False)
            for node in NODES:
                self.tries.wait_for_node(node)
            self.marks.mkdir()
            self._stack = stack.pop_all()
        return self


def dial(identity_folder: Path, line: Proxy) -> None:
    """Has a party reach the hub by a proxy."""
    replace(Identity.load(identity_folder), urls=(f"tls://127.0.0.1:{line.port}",)).save(identity_folder)
