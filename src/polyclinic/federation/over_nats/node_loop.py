"""The long-lived node: takes requests from the hub, has them done one after the other, and answers.

A request is acknowledged when its reply is stored, here and at the hub; until then the hub delivers it again to a node
that was killed. While it waits or is worked on, the hub is told so, and keeps still.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from nats.aio.msg import Msg

import polyclinic
from polyclinic.errors import FederationError, MessageError, PolyclinicError
from polyclinic.federation.in_process import stopped
from polyclinic.federation.node_state import RECEIVING, SENDING, WAITING, NodeState
from polyclinic.federation.over_nats import subjects
from polyclinic.federation.over_nats.answering import Answering
from polyclinic.federation.over_nats.connection import Link
from polyclinic.federation.over_nats.doing import Doing, of_disk
from polyclinic.federation.over_nats.encryption import encrypt
from polyclinic.federation.over_nats.gate import Gate, id_in
from polyclinic.federation.over_nats.identity import Identity, node_identity_folder
from polyclinic.federation.over_nats.node_journal import journal_of
from polyclinic.federation.over_nats.node_work import Job, Turns, Workshop
from polyclinic.federation.over_nats.status import NodeStatus, Task
from polyclinic.federation.over_nats.stored_replies import Answer, StoredReplies
from polyclinic.messages.replies import Reply, SearchReply
from polyclinic.messages.requests import ApprovalRequest, SearchRequest
from polyclinic.messages.version import VERSION
from polyclinic.node.governance import Governance
from polyclinic.node.node import Node
from polyclinic.node.registry import RegisteredDataset

log = logging.getLogger("polyclinic.node")

_BATCH = 50
_RETRY_SECONDS = 2.0
# What people watch may be so old: work does not wait for it.
_NEWS_SECONDS = 0.5
_NAMED = 20  # of those before a request, in what is told of it


class NodeLoop:
    """A node that has joined a hub.

    Args:
        node: with a folder, and an identity in it.

    Raises:
        FederationError: the node has not joined a hub.
    """

    def __init__(self, node: Node) -> None:
        assert node.folder is not None
        self._node, self._folder = node, node.folder
        self._me = Identity.load(node_identity_folder(node.folder))
        self._link = Link(self._me)
        journal = journal_of(node)
        self._gate = Gate(node.folder, self._link, journal)
        self._answering = Answering(self._link, self._gate.let_in)
        self._workshop = Workshop(node)
        governance = Governance(node, journal)
        self._replies = StoredReplies(node.folder)
        self._turns = Turns()
        self._jobs: dict[str, Job] = {}  # by the id of their frame: those that wait, and the current one
        self._current: Job | None = None
        self._state = ""
        self._registered: list[RegisteredDataset] | None = None
        self._datasets: list[Any] = []
        self._searching = asyncio.Lock()
        self._settling = asyncio.Lock()
        self._news = asyncio.Event()
        self._doing = Doing(self._link, self._gate, governance, self._workshop, say=self._say, news=self._news.set)
        self._started = time.time()

    async def run(self) -> None:
        """Works until SIGTERM or SIGINT. SIGUSR1 stops the current task.

        Raises:
            NodeInUse: another program holds the node's folder.
            FederationError: the hub has shut this node out.
        """
        end = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end.set)
        loop.add_signal_handler(signal.SIGUSR1, self._stop_here)
        with self._node.in_use():
            try:
                await self._until(end, self._serve())
            finally:
                self._workshop.end()
                await self._link.close()
                NodeStatus.remove(self._folder)
                if self._node.engine is not None:
                    self._node.engine.dispose()

    async def _serve(self) -> None:
        self._write_status()
        log.info("%s", self._workshop.describe())
        await self._patiently(self._link.open)
        log.info("node %s is at the hub %s", self._me.party_id, self._me.hub_name)
        # What a node that was killed had taken on comes again now, and not only after the hub has waited for it.
        await self._patiently(partial(self._link.ask_desk, "hello", {"starts": True}))
        await self._link.listen(subjects.from_all("ctl", self._me.party_id), self._on_control)
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive())
                tasks.create_task(self._keep_alive())
                tasks.create_task(self._work())
                tasks.create_task(self._tell_news())
        except ExceptionGroup as group:
            # The hub has shut this node out: there is nothing left to do here.
            if shut_out := [err for err in group.exceptions if isinstance(err, FederationError)]:
                raise shut_out[0] from None
            raise

    async def _patiently(self, act: Callable[[], Awaitable[object]]) -> None:
        """Does it, as soon as the hub lets it."""
        while True:
            try:
                await act()
                return
            except FederationError as err:
                log.warning("%s", err)
                await asyncio.sleep(_RETRY_SECONDS)

    async def _until(self, end: asyncio.Event, serving: Coroutine[Any, Any, None]) -> None:
        """Serves until the event is set."""
        task, ending = asyncio.ensure_future(serving), asyncio.ensure_future(end.wait())
        await asyncio.wait((task, ending), return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if task.done():
            task.result()
        task.cancel()
        # A worker at work is ended, so that the thread that waits for its answer ends too.
        self._workshop.end()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    # ---- receiving

    async def _receive(self) -> None:
        async for message in self._link.pull(subjects.REQUESTS, subjects.consumer(self._me.party_id), _BATCH):
            try:
                try:
                    await self._take(message)
                except PolyclinicError as err:
                    await self._refuse(message, err)
            except Exception:
                # One bad message must not end the node for the others; it would come again at each start.
                log.exception("a message could not be looked at")
                await self._acknowledge(message)

    async def _take(self, message: Msg) -> None:
        """Looks at a request, and puts it into the queue.

        Raises:
            MessageError, NotTrusted: it is refused.
        """
        if not message.data:
            self._withdrawn(message)
            await self._acknowledge(message)
            return
        envelope, request, inline = await self._gate.request(message)
        if envelope.id in self._jobs:
            self._jobs[envelope.id].message = message
            return
        ends = None if envelope.seconds is None else time.monotonic() + envelope.seconds
        job = Job(envelope, request, inline, ends, message)
        if isinstance(request, SearchRequest | ApprovalRequest):
            # Not queued: what a node holds and allows is answered also while it works.
            self._jobs[envelope.id] = job
            self._aside(job, self._answered(job))
            return
        self._jobs[envelope.id] = job
        self._turns.add(job)
        self._news.set()

    async def _refuse(self, message: Msg, err: PolyclinicError) -> None:
        """Says why to whoever asked, if there is somebody who asked."""
        _, _, researcher, request_id = message.subject.split(".", 3)
        failure = self._doing.failure(request_id, "receive", err)
        try:
            await self._answering.refuse(researcher, id_in(message.data), failure)
        except FederationError as refused:
            log.warning("%s", refused)
        await self._acknowledge(message)

    async def _acknowledge(self, message: Msg) -> None:
        # If this is lost, the request comes again, and is answered from what is stored.
        await self._link.tell(message.reply, b"+ACK")

    async def _on_control(self, message: Msg) -> None:
        try:
            researcher, frames = await self._gate.stops(message)
        except PolyclinicError as err:
            log.warning("refused at %s: %s", message.subject, err)
            return
        # Frames of requests are named, each of which exists once: a replayed stop stops nothing else.
        for name in frames:
            job = self._jobs.get(name)
            if job and job.envelope.sender == researcher:
                self._stop(job)

    def _withdrawn(self, message: Msg) -> None:
        """An empty message has taken a request's place at the hub: it need not be done. Unlike what comes to
        `_on_control`, it waits for a node whose line is cut. The server guards the subject."""
        _, _, *whose = message.subject.split(".", 3)
        for job in list(self._jobs.values()):
            if [job.envelope.sender, job.envelope.request_id] == whose and not job.stop.is_set():
                self._stop(job)

    def _stop(self, job: Job) -> None:
        """Stops a job for its researcher. One that waits is answered at once, and its place in the queue is free."""
        log.info("request %s of %s is stopped", job.envelope.request_id, job.envelope.sender)
        job.stop.set()
        if self._turns.remove(job):
            self._aside(job, self._answer_stopped(job))
            self._news.set()

    def _stop_here(self) -> None:
        if self._current is not None:
            log.warning("request %s is stopped by the data manager", self._current.envelope.request_id)
            self._current.stopped_here = True
            self._current.stop.set()

    # ---- working

    async def _work(self) -> None:
        while True:
            job = await self._turns.take()
            self._current = job
            self._say(RECEIVING)
            try:
                await self._do(job)
            except MessageError as err:
                await self._refuse(job.message, err)
            except Exception:
                # Not acknowledged: the hub delivers it again, and then it is answered from what is stored.
                log.exception("request %s could not be answered", job.envelope.request_id)
            finally:
                self._current = None
                del self._jobs[job.envelope.id]
                self._news.set()

    async def _do(self, job: Job) -> None:
        answer = self._replies.find(job.envelope)
        scratch = self._workshop.scratch()
        try:
            again = answer is not None
            if answer is None:
                answer = self._kept(job, await self._doing.done(job, scratch))
            else:
                log.info("request %s was done before; answered again", job.envelope.request_id)
            self._say(SENDING)
            await self._send(job, answer, again=again)
        finally:
            await self._tidy(job, scratch)

    async def _send(self, job: Job, answer: Answer, *, again: bool) -> None:
        await self._answering.answer(job.envelope, answer, again=again)
        await self._acknowledge(job.message)

    async def _tidy(self, job: Job, scratch: Path | None = None) -> None:
        """Waits for the disk, as nobody else has to: the hub has the reply."""

        def tidy() -> None:
            self._replies.settle(job.envelope)
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)

        async with self._settling:
            await asyncio.to_thread(tidy)

    def _kept(self, job: Job, answer: Answer) -> Answer:
        try:
            return self._replies.keep(job.envelope, answer)
        except OSError as err:
            return Answer(self._doing.failure(job.envelope.request_id, "send", of_disk(err)))

    # ---- answering

    def _aside(self, job: Job, answering: Coroutine[Any, Any, None]) -> None:
        """Answers a job beside the one that is worked on."""
        task = asyncio.ensure_future(answering)
        task.add_done_callback(lambda _: self._jobs.pop(job.envelope.id, None))

    async def _answer_stopped(self, job: Job) -> None:
        answer = Answer(stopped(job.envelope.request_id, self._me.party_id))
        try:
            # What was done before stays what is answered if it is asked for again.
            if self._replies.find(job.envelope) is None:
                answer = self._kept(job, answer)
            await self._send(job, answer, again=False)
            await self._tidy(job)
        except MessageError as err:
            await self._refuse(job.message, err)

    async def _answered(self, job: Job) -> None:
        reply = await (self._found(job) if isinstance(job.request, SearchRequest) else self._doing.approval(job))
        await self._answering.answer(job.envelope, Answer(reply))
        await self._acknowledge(job.message)

    async def _found(self, job: Job) -> Reply:
        async with self._searching:
            reply = await asyncio.to_thread(self._node.handle, job.request)
        return reply.model_copy(update={"node_id": self._me.party_id})

    # ---- being there

    async def _keep_alive(self) -> None:
        """Heartbeat, and progress of what waits or is worked on, so that the hub does not deliver it again."""
        while True:
            for job in list(self._jobs.values()):
                await self._link.tell(job.message.reply, b"+WPI")
            # Told again for researchers whose programs have begun meanwhile.
            if self._jobs:
                self._news.set()
            await self._link.tell(subjects.heartbeat(self._me.party_id), json.dumps(await self._about()).encode())
            self._write_status()
            if self._current is None:
                self._workshop.end_if_idle()
            await asyncio.sleep(subjects.PROGRESS_EVERY_SECONDS)

    async def _about(self) -> dict[str, Any]:
        """What researchers see of the node."""
        registered = await asyncio.to_thread(self._node.registry.datasets)
        # Looking at all their files takes its time: it is only done when others are registered.
        if registered != self._registered:
            async with self._searching:
                reply = await asyncio.to_thread(self._node.handle, SearchRequest(request_id="heartbeat"))
            if isinstance(reply, SearchReply):
                self._registered = registered
                self._datasets = [d.model_dump(mode="json") for d in reply.datasets]
        current = self._current
        return {
            "name": self._node.name,
            "datasets": self._datasets,
            "working": None if current is None else {"state": self._state, "researcher": current.envelope.sender},
            "queue": Counter(job.envelope.sender for job in self._turns.order()),
            "versions": {"polyclinic": polyclinic.__version__, "messages": VERSION},
        }

    # ---- what it is at

    def _say(self, state: str) -> None:
        """Notes what the node is at with the current job."""
        self._state = state
        self._news.set()

    async def _tell_news(self) -> None:
        """Tells the researchers and this machine what the node is at now and who waits: not of every step."""
        while True:
            await self._news.wait()
            await asyncio.sleep(_NEWS_SECONDS)
            self._news.clear()
            self._write_status()
            before = []
            if (job := self._current) is not None:
                before.append(job.envelope.sender)
                progress = None if job.progress is None else job.shown(job.progress)
                told = None if progress is None else [progress.batch, progress.num_batches, progress.loss]
                await self._tell_live(job, {"state": self._state, "progress": told})
            for job in self._turns.order():
                await self._tell_live(job, {"state": WAITING, "before": before[:_NAMED], "num_before": len(before)})
                before.append(job.envelope.sender)

    async def _tell_live(self, job: Job, told: dict[str, Any]) -> None:
        researcher = job.envelope.sender
        words = json.dumps({"request_id": job.envelope.request_id, **told}).encode()
        frame = encrypt(words, self._me.keys, self._gate.let_in[researcher])
        await self._link.tell(subjects.live(researcher, self._me.party_id), frame)

    def _write_status(self) -> None:
        task, waiting = None, tuple(_task(job, WAITING) for job in self._turns.order())
        if (current := self._current) is not None:
            state = NodeState(self._me.party_id, self._state, progress=current.progress).describe()
            task = _task(current, state)
        NodeStatus(os.getpid(), self._started, self._link.connected, task, waiting).write(self._folder)


def _task(job: Job, state: str) -> Task:
    asked = job.envelope
    return Task(asked.sender, asked.experiment_id, asked.round, job.request.kind, state, job.came)
