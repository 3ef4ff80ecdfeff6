"""The workers of a node: each for one researcher, one experiment and one dataset, and in a sandbox of its own; or for
all that one researcher asks for, where the policy says ``limits-only``.

::

    researchers/<researcher>/experiments/<experiment>/    what the node keeps of an experiment; in view of its worker
    work/box-<n>/written/    what the worker writes, its replies among it
    work/box-<n>/given/      what it is given to read
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import stat
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from polyclinic.errors import PolicyInvalid, SandboxError
from polyclinic.federation.worker_process import WorkerProcess
from polyclinic.messages.requests import WorkRequest
from polyclinic.node import cgroups, sandbox
from polyclinic.node.node import Node
from polyclinic.node.policy import Policy, PolicyFile
from polyclinic.node.registry import RegisteredDataset
from polyclinic.node.sandbox import Box

log = logging.getLogger("polyclinic.node")

# A worker that has had nothing to do for so long is ended: a node at rest holds no torch.
IDLE_SECONDS = 60.0
_AT_MOST = 3
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_REPLY = "reply.safetensors"

Key = tuple[str, str, str]


@dataclass
class Boxed:
    """A worker, what it sees, and the policy that it was started under."""

    worker: WorkerProcess
    box: Box
    policy: Policy
    described: dict[str, Any]  # its dataset, see `RegisteredDataset.described`
    folder: Path  # as the node's folder to it: holds its experiment's state, and nothing else in view
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def reply(self) -> Path:
        """Where it is to write the tensors of its reply."""
        return self.box.scratch / _REPLY

    @property
    def over(self) -> str:
        """The limit that it passed, if it was ended for that."""
        return self.worker.over

    def give(self, tensors: Path | None) -> Path | None:
        """Puts a file in its view, to be read only."""
        if tensors is None:
            return None
        target = self.box.given / "sent.safetensors"
        target.unlink(missing_ok=True)
        os.link(tensors, target)
        return target

    def take_reply(self, target: Path) -> Path | None:
        """Moves the file of its reply out of its reach; None if what lies there is no ordinary file.

        What was written may be anything: nothing is followed, and nothing is opened.
        """
        self.reply.rename(target)
        about = target.lstat()
        if stat.S_ISREG(about.st_mode) and about.st_nlink == 1:
            return target
        target.unlink()
        return None

    def busy(self, busy: bool) -> None:
        """Notes that it works, or rests."""
        self.idle_since = time.monotonic()
        if self.worker.watch is not None:
            self.worker.watch.busy = busy


class Boxes:
    """The workers of one node.

    Args:
        node: with a folder.
        work: a folder for what goes to and fro.
    """

    def __init__(self, node: Node, work: Path) -> None:
        assert node.folder is not None
        self._folder, self._work = node.folder, work
        self._policy = PolicyFile(node.folder)
        self._groups = cgroups.delegated()
        self._boxes: dict[Key, Boxed] = {}
        self._count = 0

    def describe(self) -> str:
        """How work is contained at this node now, or why none is done: a sentence."""
        try:
            policy = self._policy.current()
        except PolicyInvalid as err:
            return f"all work is refused: {err.what}"
        if policy.sandbox == "limits-only":
            return f"plans run with limits only, and not contained: the policy says so; {self._held()}"
        if why := sandbox.problem():
            return f"all work is refused, because plans cannot be contained: {why}"
        return f"plans run in a sandbox of bubblewrap; {self._held()}"

    def _held(self) -> str:
        if self._groups is None:
            return "what they use is watched, as no control group is delegated to the node"
        return f"what they use is held by control groups ({', '.join(self._groups.controllers)}), and watched"

    def take(self, researcher: str, request: WorkRequest, dataset: RegisteredDataset) -> Boxed:
        """The worker for a request, started if there is none yet.

        Raises:
            SandboxError: it has to be contained, and cannot be.
            PolicyInvalid: the policy cannot be read.
            OSError: the disk does not take its folders.
        """
        policy, described = self._policy.current(), dataset.described()
        contained = policy.sandbox == "bubblewrap"
        key = (researcher, _require_safe(request.experiment_id), request.dataset_id)
        if not contained:
            # It sees the others anyway, so a researcher has one for all, and importing torch is paid for once.
            key = (researcher, "", "")
        known = self._boxes.pop(key, None)
        if known is not None:
            same = (known.policy.sandbox, known.policy.resources) == (policy.sandbox, policy.resources)
            if same and known.worker.alive and (known.described == described or not contained):
                known.described = described
                self._boxes[key] = known
                return known
            self._end(known)
        while len(self._boxes) >= _AT_MOST:
            self._end(self._boxes.pop(next(iter(self._boxes))))
        made = self._boxes[key] = self._start(key, policy, dataset, described)
        return made

    def drop(self, boxed: Boxed) -> str:
        """Ends a worker; says how it had ended, for a reader."""
        self._boxes = {key: one for key, one in self._boxes.items() if one is not boxed}
        return self._end(boxed)

    def end_idle(self) -> None:
        """Ends those that have had nothing to do for long."""
        for boxed in list(self._boxes.values()):
            if time.monotonic() > boxed.idle_since + IDLE_SECONDS or not boxed.worker.alive:
                self.drop(boxed)

    def end(self) -> None:
        """Ends them all."""
        for boxed in list(self._boxes.values()):
            self.drop(boxed)

    def _start(self, key: Key, policy: Policy, dataset: RegisteredDataset, described: dict[str, Any]) -> Boxed:
        researcher, experiment, _ = key
        folder = self._folder / "researchers" / _folder_name(researcher)
        self._count += 1
        place = self._work / f"box-{self._count}"
        box = Box(
            dataset=dataset,
            node_folder=self._folder,
            # Where `Node` looks for it; of all experiments, if the worker is not of one.
            state=folder / "experiments" / experiment,
            scratch=place / "written",
            given=place / "given",
            resources=policy.resources,
        )
        for path in (box.state, box.scratch, box.given):
            path.mkdir(parents=True, exist_ok=True)
        worker = WorkerProcess(box, contained=policy.sandbox == "bubblewrap", groups=self._groups)
        return Boxed(worker, box, policy, described, folder)

    def _end(self, boxed: Boxed) -> str:
        how = boxed.worker.kill()
        shutil.rmtree(boxed.box.scratch.parent, ignore_errors=True)
        with suppress(OSError):  # there is something in it
            boxed.box.state.rmdir()
        return how


def _require_safe(experiment: str) -> str:
    if not _SAFE.fullmatch(experiment):
        raise SandboxError(
            "an experiment's id is no name for a folder", to_do="use letters, digits, - and _", stage="sandbox"
        )
    return experiment


def _folder_name(researcher: str) -> str:
    return researcher if _SAFE.fullmatch(researcher) else hashlib.sha256(researcher.encode()).hexdigest()[:32]
