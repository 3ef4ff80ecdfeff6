"""A researcher's program, which dies by kill -9 at the very place that it is told.

    python -m tests.system.researcher IDENTITY FOLDER MARKS STAGE…

Each stage is a process of its own, forked when all is imported; it begins the experiment or goes on with it, and is
killed at its stage. It prints how each ended.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from polyclinic import Experiment
from polyclinic.experiment.run_folder import RunFolder
from polyclinic.federation.over_nats.connection import Link
from polyclinic.federation.over_nats.correspondence import Correspondence
from polyclinic.federation.over_nats.researcher import NatsFederation
from tests.system.hospitals import NODES, experiment


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def around(owner: type, name: str, before: Callable[..., object] | None, after: Callable[..., object] | None) -> None:
    """Has something called before or after each call of a method."""
    inner = getattr(owner, name)

    def method(self: Any, *arguments: Any, **more: Any) -> Any:
        if before:
            before(*arguments)
        result = inner(self, *arguments, **more)
        if after:
            after(*arguments)
        return result

    setattr(owner, name, method)


def die_when_stored(prefix: str) -> None:
    """When the hub has stored the first message of a kind."""
    inner = Link.store

    async def store(self: Link, subject: str, data: bytes, **more: Any) -> None:
        await inner(self, subject, data, **more)
        if subject.startswith(prefix):
            die()

    Link.store = store  # type: ignore[method-assign]


def die_while_nodes_train(marks: Path) -> None:
    (marks / "wait").touch()

    def watch() -> None:
        while len(list(marks.glob("waiting-*"))) < len(NODES):
            time.sleep(0.02)
        die()

    threading.Thread(target=watch, daemon=True).start()


STAGES: dict[str, Callable[[Path], None]] = {
    "prepared": lambda _: around(Correspondence, "prepare", None, die),
    "uploading": lambda _: die_when_stored("down."),
    "asking": lambda _: die_when_stored("req."),
    "waiting": die_while_nodes_train,
    "replied": lambda _: around(RunFolder, "write_round", die, None),
    "recorded": lambda _: around(RunFolder, "write_round", None, die),
    "end": lambda _: None,
}


def run(identity: Path, folder: Path, marks: Path) -> None:
    """Begins the experiment, or goes on with it, to its end."""
    federation = NatsFederation(identity)
    if (folder / "experiment.json").exists():
        Experiment.load(folder, federation=federation, observers=[]).run()
    else:
        experiment(federation, folder, marks).run()
    federation.close()


def main() -> None:
    identity, folder, marks = map(Path, sys.argv[1:4])
    for stage in sys.argv[4:]:
        pid = os.fork()
        if not pid:
            code = 1
            try:
                STAGES[stage](marks)
                run(identity, folder, marks)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(stage, "was killed" if code == -signal.SIGKILL else f"ended with {code}", flush=True)
        (marks / "wait").unlink(missing_ok=True)
        for mark in marks.glob("waiting-*"):
            mark.unlink()


if __name__ == "__main__":
    main()
