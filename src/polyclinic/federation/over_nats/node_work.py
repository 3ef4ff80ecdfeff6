"""What a long-lived node does with one request: a worker process does the work, so that the node itself stays small.

The node's process never imports torch; the worker does when it is first needed, and is ended when it has been idle.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from nats.aio.msg import Msg

from polyclinic.errors import Cancelled, SandboxError
from polyclinic.federation.in_process import late, stopped
from polyclinic.federation.over_nats.boxes import Boxed, Boxes
from polyclinic.federation.over_nats.signing import Envelope
from polyclinic.federation.over_nats.stored_replies import Answer
from polyclinic.messages.replies import Failure, Reply
from polyclinic.messages.requests import Request, WorkRequest
from polyclinic.node.failures_file import note_failure
from polyclinic.node.leaving_texts import without_loss
from polyclinic.node.node import Node
from polyclinic.node.registry import RegisteredDataset
from polyclinic.node.stop import TELL_EVERY_SECONDS, Progress
from polyclinic.node.worker import Frame

log = logging.getLogger("polyclinic.node")

# A worker looks between two batches whether it is to stop; this long after it was told so, it is ended.
GRACE_SECONDS = 5.0
_LOOK_SECONDS = 0.2


@dataclass
class Job:
    """A request that this node has taken on.

    Args:
        inline: the bytes of the tensors that came with it, or of the `Lock` of those that travel apart.
        ends: on the clock of `time.monotonic`, when its deadline passes at the latest.
        message: the hub's latest delivery of it, to be acknowledged.
    """

    envelope: Envelope
    request: Request
    inline: bytes
    ends: float | None
    message: Msg
    came: float = field(default_factory=time.time)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    stopped_here: bool = False
    progress: Progress | None = None
    # What the researcher may see of it.
    shown: Callable[[Progress], Progress] = without_loss

    @property
    def is_late(self) -> bool:
        return self.ends is not None and time.monotonic() > self.ends

    @property
    def seconds_left(self) -> float | None:
        return None if self.ends is None else self.ends - time.monotonic()


class Turns:
    """The jobs that wait. Researchers take turns, so that one with many requests does not keep the others waiting."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Job]] = {}
        self._last: dict[str, int] = {}  # the number of each researcher's last turn
        self._some = asyncio.Event()

    def add(self, job: Job) -> None:
        self._waiting.setdefault(job.envelope.sender, deque()).append(job)
        self._some.set()

    def remove(self, job: Job) -> bool:
        """Takes one out that need not be done any more; False if it does not wait."""
        jobs = self._waiting.get(job.envelope.sender, deque())
        if job not in jobs:
            return False
        jobs.remove(job)
        if not jobs:
            del self._waiting[job.envelope.sender]
        return True

    async def take(self) -> Job:
        """The next one, as soon as there is one."""
        while not self._waiting:
            self._some.clear()
            await self._some.wait()
        return _take(self._waiting, self._last)

    def order(self) -> list[Job]:
        """Those that wait, in the order in which they are taken if no other comes."""
        waiting, last = {who: deque(jobs) for who, jobs in self._waiting.items()}, dict(self._last)
        return [_take(waiting, last) for _ in range(sum(map(len, self._waiting.values())))]


def _take(waiting: dict[str, deque[Job]], last: dict[str, int]) -> Job:
    """The first job of the researcher whose last turn is the longest ago; whose never was, who waits the longest."""
    researcher = min(waiting, key=lambda who: last.get(who, 0))
    last[researcher] = max(last.values(), default=0) + 1
    job = waiting[researcher].popleft()
    if not waiting[researcher]:
        del waiting[researcher]
    return job


class Workshop:
    """Where a node's work is done: in worker processes, each contained in what is the plan's.

    Args:
        node: with a folder.
    """

    def __init__(self, node: Node) -> None:
        assert node.folder is not None
        self._node = node
        self._folder = node.folder / "work"
        self._boxes = Boxes(node, self._folder)
        self._count = 0
        shutil.rmtree(self._folder, ignore_errors=True)

    def describe(self) -> str:
        """How work is contained at this node now: a sentence."""
        return self._boxes.describe()

    def scratch(self) -> Path:
        """A new folder for one job's files, which no plan sees."""
        self._count += 1
        folder = self._folder / str(self._count)
        folder.mkdir(parents=True)
        return folder

    async def do(
        self, job: Job, dataset: RegisteredDataset, tensors: Path | None, scratch: Path, told: Callable[[], None]
    ) -> Answer:
        """Has the job done, or stopped; what goes wrong in it is a `Failure`.

        Args:
            dataset: that it is about.
            tensors: the file of the tensors that were sent.
            scratch: where the reply's tensors are put.
            told: called a few times a second, when the job's progress has changed.

        Raises:
            SandboxError: the work has to be contained, and cannot be.
            PolicyInvalid: the policy cannot be read.
            OSError: the disk does not take its files.
        """
        # In this thread, though it takes hundredths of a second: a sandbox ends with the thread that started it.
        boxed = self._boxes.take(job.envelope.sender, cast("WorkRequest", job.request), dataset)
        envelope = {
            "node_id": self._node.node_id,
            "node_name": self._node.name,
            "folder": str(boxed.folder),
            "dataset": boxed.described,
            "tensors": _text(boxed.give(tensors)),
            "reply": str(boxed.reply),
            "seconds": job.seconds_left,
            "threads": None,
        }
        boxed.busy(True)
        if not boxed.worker.ask(envelope, job.request):
            return self._lost(job, boxed)
        frame = await self._answer_of(boxed, job, told)
        boxed.busy(False)
        if frame is None:
            return self._ended(job, boxed)
        # Its own folder's name means nothing from there: that there are tensors is all that is believed.
        envelope, reply = frame
        if not isinstance(reply, Reply) or reply.request_id != job.request.request_id:
            return self._lost(job, boxed)
        found = None
        if envelope.get("tensors") is not None:
            try:
                found = boxed.take_reply(scratch / "reply.safetensors")
            except OSError:
                found = None
            if found is None:
                return self._lost(job, boxed)
        return Answer(self._presentable(job, reply), found)

    async def _answer_of(self, boxed: Boxed, job: Job, told: Callable[[], None]) -> Frame | None:
        """The worker's answer; None if it died, or had to be ended because it did not stop."""
        worker = boxed.worker
        latest = time.monotonic() + boxed.box.resources.wall_hours * 3600
        answer = asyncio.ensure_future(asyncio.to_thread(worker.answer_frame, _noting(job, told)))
        asked: float | None = None
        while not answer.done():
            await asyncio.wait((answer,), timeout=_LOOK_SECONDS)
            if answer.done():
                break
            if asked is None and (job.stop.is_set() or job.is_late):
                asked = time.monotonic()
                if job.stop.is_set():
                    worker.ask({"cancel": job.request.request_id}, None)
            overdue = asked is not None and time.monotonic() > asked + GRACE_SECONDS
            if time.monotonic() > latest and worker.watch is not None:
                worker.watch.over = f"more than {boxed.box.resources.wall_hours:g} hours"
                overdue = True
            # A dead worker's pipe may be held open by a process that the plan had started.
            if overdue or not worker.alive:
                worker.end_group()
        return await answer

    def _ended(self, job: Job, boxed: Boxed) -> Answer:
        if not boxed.over and (job.stop.is_set() or job.is_late):
            self._boxes.drop(boxed)
            request_id, me = job.request.request_id, self._node.node_id
            if not job.stop.is_set():
                return Answer(late(request_id, me))
            return Answer(stopped_here(job) if job.stopped_here else stopped(request_id, me))
        return self._lost(job, boxed)

    def _lost(self, job: Job, boxed: Boxed) -> Answer:
        over, said = boxed.over, boxed.worker.said
        how = self._boxes.drop(boxed)
        code, what = "node", f"the node's worker process died in its work ({how})"
        to_do = (
            "look whether memory ran out at the node (its system's log says so) or the plan ends its process; "
            "the next round has a new worker"
        )
        if over:
            code, what = (
                SandboxError.code,
                f"the plan was ended: it used {over}, which the node's policy does not allow",
            )
            to_do = "use less, or ask its data manager for more ([resources] in the node's policy)"
        log.warning("request %s: %s", job.request.request_id, what)
        log.debug("the last it printed: %s", said)
        return Answer(
            Failure(
                request_id=job.request.request_id,
                node_id=self._node.node_id,
                code=code,
                stage="process",
                what=what,
                to_do=to_do,
            )
        )

    def _presentable(self, job: Job, reply: Reply) -> Reply:
        """The reply; all that is known of a failure is kept for the data manager."""
        if not isinstance(reply, Failure):
            return reply
        if reply.code == Cancelled.code and job.stopped_here:
            return stopped_here(job)
        note_failure(cast("Path", self._node.folder), reply)
        return reply

    def end_if_idle(self) -> None:
        """To be called now and then while no job is being done."""
        self._boxes.end_idle()

    def end(self) -> None:
        """Ends all workers, and what they do."""
        self._boxes.end()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _noting(job: Job, told: Callable[[], None]) -> Callable[[Progress], None]:
    """What notes a job's progress, from any thread; of what comes more often than it should, little is told."""
    loop = asyncio.get_running_loop()
    last = 0.0

    def note(progress: Progress) -> None:
        nonlocal last
        job.progress = progress
        if (now := time.monotonic()) > last + TELL_EVERY_SECONDS / 2:
            last = now
            loop.call_soon_threadsafe(told)

    return note


def stopped_here(job: Job) -> Failure:
    """A failure of this node only: the others may go on, if they are enough."""
    return Failure(
        request_id=job.request.request_id,
        node_id=job.envelope.recipient,
        code="node",
        stage="train",
        what="the task was stopped at the hospital",
        to_do="ask its data manager why; set min_nodes to go on without a node",
    )
