"""What a long-lived node does with one request: it is let in, worked on, and looked at before anything leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from polyclinic.errors import NodeError, NotApproved, PolicyRefused, PolyclinicError
from polyclinic.federation.in_process import late, stopped
from polyclinic.federation.node_state import state_of_work
from polyclinic.federation.over_nats import payloads, subjects
from polyclinic.federation.over_nats.connection import Link
from polyclinic.federation.over_nats.encryption import Lock
from polyclinic.federation.over_nats.gate import Gate
from polyclinic.federation.over_nats.node_work import Job, Workshop, stopped_here
from polyclinic.federation.over_nats.stored_replies import Answer
from polyclinic.messages.replies import CheckReply, Failure, Reply
from polyclinic.messages.requests import ApprovalRequest, CheckRequest, WorkRequest
from polyclinic.node.governance import Admission, Governance
from polyclinic.node.leaving_texts import progress_as_told
from polyclinic.node.registry import RegisteredDataset

log = logging.getLogger("polyclinic.node")

# How long an approval may be revoked, or a researcher not be trusted, before the work stops.
_LOOK_SECONDS = 1.0


class Doing:
    """The work of one node.

    Args:
        link: of the node.
        gate: knows whose requests come in.
        governance: says what may run and leave.
        workshop: runs it.
        say: tells what is being done.
        news: tells that it has got further.
    """

    def __init__(
        self,
        link: Link,
        gate: Gate,
        governance: Governance,
        workshop: Workshop,
        *,
        say: Callable[[str], None],
        news: Callable[[], None],
    ) -> None:
        self._link, self._gate = link, gate
        self._governance, self._workshop = governance, workshop
        self._say, self._news = say, news

    async def done(self, job: Job, scratch: Path) -> Answer:
        """The answer to a request; whatever goes wrong is a `Failure`."""
        request = job.request
        assert isinstance(request, WorkRequest)
        try:
            admission = await self._admitted(job, request)
            if isinstance(admission, CheckReply):
                return Answer(self._ours(admission))
            job.shown = partial(progress_as_told, admission.policy, request, admission.dataset)
            watching = asyncio.ensure_future(self._stop_if_revoked(job, admission))
            try:
                answer, sent = await self._worked(job, admission.dataset, scratch)
            finally:
                watching.cancel()
            answer = await self._if_trusted(job, answer)
            leaving = (request, answer.reply, answer.tensors, sent)
            reply, tensors = await asyncio.to_thread(self._governance.ended, admission, *leaving)
            if isinstance(reply, Failure):
                # Not what it says, which may quote a patient's values.
                at = (reply.request_id, reply.stage, reply.code, reply.reference)
                log.warning("request %s failed at stage %s (%s), reference %s in failures.txt", *at)
            return Answer(self._ours(reply), tensors)
        except Exception as err:
            return Answer(self._failed(job, err))

    async def approval(self, job: Job) -> Reply:
        """What the data manager has said of a request; runs nothing."""
        request = job.request
        assert isinstance(request, ApprovalRequest)
        try:
            key = await self._gate.still_trusted(job.envelope.sender)
            reply = await asyncio.to_thread(self._governance.approval, job.envelope.sender, key, request)
            return self._ours(reply)
        except Exception as err:
            return self._failed(job, err)

    def failure(self, request_id: str, stage: str, err: PolyclinicError) -> Failure:
        """What is told of an error; the node's log has it too."""
        log.warning("request %s failed at stage %s: %s", request_id, stage, err)
        me = self._link.identity.party_id
        return Failure(request_id=request_id, node_id=me, code=err.code, stage=stage, what=err.what, to_do=err.to_do)

    async def _admitted(self, job: Job, request: WorkRequest) -> Admission | CheckReply:
        """The request may run; or the answer to a check that need not run to be answered.

        Raises:
            PolicyRefused, NotApproved, NotTrusted: it may not.
        """
        researcher = job.envelope.sender
        key = await self._gate.still_trusted(researcher)
        asked = (researcher, key, request)
        try:
            return await asyncio.to_thread(self._governance.admit, *asked, job.envelope.id)
        except (PolicyRefused, NotApproved):
            if not isinstance(request, CheckRequest):
                raise
            items = await asyncio.to_thread(self._governance.check_items, researcher, key, request)
        return CheckReply(request_id=request.request_id, node_id=self._link.identity.party_id, items=items)

    async def _worked(self, job: Job, dataset: RegisteredDataset, scratch: Path) -> tuple[Answer, Path | None]:
        """What came of the work, and the file of the tensors that were sent for it."""
        request_id, me, sent = job.envelope.request_id, self._link.identity.party_id, None
        try:
            fetching = self._fetch(job, scratch)
            sent = await (_unless_stopped(job, fetching) if job.envelope.payload else fetching)
            if job.stop.is_set():
                return Answer(stopped_here(job) if job.stopped_here else stopped(request_id, me)), sent
            if job.is_late:
                return Answer(late(request_id, me)), sent
            self._say(state_of_work(job.request))
            return await self._workshop.do(job, dataset, sent, scratch, self._news), sent
        except Exception as err:
            return Answer(self._failed(job, err)), sent

    def _failed(self, job: Job, err: Exception) -> Failure:
        request_id = job.envelope.request_id
        if isinstance(err, PolyclinicError):
            return self.failure(request_id, str(err.where.get("stage", "receive")), err)
        if isinstance(err, OSError):
            return self.failure(request_id, "receive", of_disk(err))
        # Else the researcher would wait for ever.
        log.error("request %s", request_id, exc_info=err)
        failed = NodeError(f"the node failed with {type(err).__name__}", to_do="see the log of the node")
        return self.failure(request_id, "receive", failed)

    async def _stop_if_revoked(self, job: Job, admission: Admission) -> None:
        # Not at once: it has just been looked at, and short work is looked at again at its end.
        await asyncio.sleep(_LOOK_SECONDS)
        why = "its approval was revoked"
        while await asyncio.to_thread(self._governance.stands, admission):
            if not self._gate.trusts(job.envelope.sender):
                why = "its researcher is not trusted any more"
                break
            await asyncio.sleep(_LOOK_SECONDS)
        log.warning("request %s is stopped: %s", job.envelope.request_id, why)
        job.stop.set()

    async def _if_trusted(self, job: Job, answer: Answer) -> Answer:
        """The answer, if its researcher is still trusted: nothing leaves for anybody else."""
        try:
            await self._gate.still_trusted(job.envelope.sender)
        except PolyclinicError as err:
            return Answer(self._failed(job, err))
        return answer

    async def _fetch(self, job: Job, scratch: Path) -> Path | None:
        """The file with the request's tensors."""
        path, envelope = scratch / "sent.safetensors", job.envelope
        if envelope.payload is not None:
            payload, experiment = envelope.payload, envelope.experiment_id

            def subject(chunk: int) -> str:
                return subjects.down(envelope.sender, experiment, payload.sha256, chunk)

            await payloads.download(self._link, subject, payload, Lock.from_bytes(job.inline), path)
            return path
        if job.inline:
            path.write_bytes(job.inline)
            return path
        return None

    def _ours(self, reply: Reply) -> Reply:
        """The reply under the name that the node has at the hub."""
        me = self._link.identity.party_id
        return reply if reply.node_id == me else reply.model_copy(update={"node_id": me})


def of_disk(err: OSError) -> NodeError:
    """What is told of a disk that does not take something."""
    return NodeError(f"the node's disk does not take it: {err.strerror or err}; its data manager has to make room")


async def _unless_stopped(job: Job, coroutine: Coroutine[Any, Any, Path | None]) -> Path | None:
    """The result; None if the job was stopped, or its deadline passed, before it was there."""
    task, stop = asyncio.ensure_future(coroutine), asyncio.ensure_future(job.stop.wait())
    try:
        await asyncio.wait((task, stop), timeout=job.seconds_left, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for waiting in (task, stop):
            waiting.cancel()
