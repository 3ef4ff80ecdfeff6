"""The researcher's side of the hub, in an event loop: requests go out, replies come in, and find who waits for them."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
import secrets
import tempfile
import time
from collections.abc import Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from nats.aio.msg import Msg

from polyclinic import tensors
from polyclinic.errors import FederationError, MessageError, OtherVersion, PolyclinicError
from polyclinic.federation.over_nats import payloads, subjects
from polyclinic.federation.over_nats.connection import CONNECT_SECONDS, Link
from polyclinic.federation.over_nats.directory import Directory, unread_reply
from polyclinic.federation.over_nats.encryption import LOCK_BYTES, Lock, key_of, salt_of
from polyclinic.federation.over_nats.identity import Identity
from polyclinic.federation.over_nats.live import state_in
from polyclinic.federation.over_nats.sending import Sending, described_tensors, require_fit
from polyclinic.federation.over_nats.signing import Envelope, Payload, check, content_digest, read_body, seal, unseal
from polyclinic.messages import codec
from polyclinic.messages.replies import Failure, Reply
from polyclinic.messages.requests import Request

log = logging.getLogger("polyclinic.federation")

_LATE = "late-replies.jsonl"
# How often it is looked whether a reply was missed, as while the connection was away.
_LOOK_SECONDS = 5.0
_TIDY_SECONDS = 2.0

# A request, by its node and id; or a payload, by its experiment and SHA-256.
Key = tuple[str, str]


class Correspondence:
    """A researcher's connection to the hub. Its coroutines are for one event loop.

    Args:
        identity: the researcher's.
        directory: what is known of the nodes.
        folder: the identity's; late replies are recorded there.
    """

    def __init__(self, identity: Identity, directory: Directory, folder: Path | None) -> None:
        self.link = Link(identity)
        self._me = identity
        self._directory = directory
        self._folder = folder
        self._sendings: list[Sending] = []
        self._uses: dict[tuple[str, str], int] = {}  # of payloads at the hub: experiment, SHA-256
        self._uploads: dict[tuple[str, str], asyncio.Future[None]] = {}
        # Large replies come one after the other: the first is added up while the next is on its way, and chunks of few
        # of them are in memory.
        self._fetching = asyncio.Semaphore(1)
        self._tidying: dict[Key, asyncio.Task[None]] = {}
        self._inline: set[str] = set()  # requests whose replies brought their tensors with them
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Connects, and looks who is there.

        Raises:
            FederationError: the hub is not there.
        """
        await self.link.open()
        await self.link.listen(subjects.from_all("rep", self._me.party_id), self._on_reply)
        await self.link.listen(subjects.heartbeats(), self._on_heartbeat)
        await self.link.listen(subjects.from_all("live", self._me.party_id), self._on_live)
        await self.refresh()
        await asyncio.gather(*map(self._look_at, self._directory.nodes))
        self._start(self._watch())

    async def close(self) -> None:
        """Ends the connection, after what has still to be tidied up."""
        tidying = [task for task in self._tasks if task.get_name() == "tidy"]
        if tidying:
            await asyncio.wait(tidying, timeout=2)
        for task in list(self._tasks):
            task.cancel()
        await self.link.close()

    async def refresh(self) -> None:
        """Asks who belongs to the hub.

        Raises:
            FederationError: nobody says, and nothing is known from before.
        """
        try:
            answer = await asyncio.wait_for(self.link.ask_desk("hello", {}), CONNECT_SECONDS)
            self._directory.update(answer["parties"], answer["time"])
        except TimeoutError:
            if not self._directory.as_before():
                raise FederationError(
                    "the hub does not say which nodes there are", to_do="look whether it runs: polyclinic hub status"
                ) from None

    async def _look_at(self, node_id: str) -> None:
        if (data := await self.link.stored(subjects.NODES, subjects.heartbeat(node_id))) is not None:
            self._directory.heard(node_id, data)

    async def _on_heartbeat(self, message: Msg) -> None:
        self._directory.heard(message.subject.rpartition(".")[2], message.data)

    async def _on_live(self, message: Msg) -> None:
        told = state_in(message.data, node_id := message.subject.rpartition(".")[2], self._me, self._directory)
        if told and (sending := self._waiting_for(node_id, told[0])):
            sending.states[node_id] = told[1]

    # ---- requests

    def prepare(self, requests: Mapping[str, Request], seconds: float | None) -> Sending:
        """Signs the requests. Equal tensors are one payload.

        Raises:
            MessageError: something is too large to travel.
        """
        described: dict[int, tuple[list[bytes | memoryview], Payload | None]] = {}
        sending = Sending({}, {}, {}, "", False)
        for node_id, request in requests.items():
            sending.experiment_id = getattr(request, "experiment_id", "")
            salt = salt_of(self._me.keys, sending.experiment_id)
            if id(request.tensors) not in described:
                described[id(request.tensors)] = described_tensors(request, salt)
            parts, payload = described[id(request.tensors)]
            head = b"".join(codec.encode(request.model_copy(update={"tensors": {}})))
            require_fit(head)
            inline = b"" if payload else b"".join(parts)
            lock = Lock(salt, key_of(self._me.keys, payload.sha256)).to_bytes() if payload else b""
            envelope = Envelope(
                kind="request",
                id=secrets.token_hex(16),
                sender=self._me.party_id,
                recipient=node_id,
                time=time.time(),
                request_id=subjects.token(request.request_id),
                experiment_id=sending.experiment_id,
                round=getattr(request, "round", 0),
                digest=content_digest(head, payload.sha256 if payload else hashlib.sha256(inline).hexdigest()),
                seconds=seconds,
                tensors=len(inline),
                payload=payload,
            )
            sending.asked[node_id] = envelope
            key = self._directory.require(node_id).key
            sending.frames[node_id] = seal(envelope, lock + head + inline, self._me.keys, to=key)
            if payload:
                sending.parts[payload.sha256] = parts
        return sending

    async def deliver(self, sending: Sending) -> None:
        """Stores the requests at the hub, payloads first; an error ends the sending."""
        self._sendings.append(sending)
        try:
            if sending.may_be_answered:
                await self.look_for_replies(sending)
            for sha256, parts in sending.parts.items():
                await self._upload(sending, sha256, parts)
            await asyncio.gather(*(self._request(sending, *asked) for asked in list(sending.asked.items())))
        except PolyclinicError as err:
            sending.arrived.put(err)

    async def _request(self, sending: Sending, node_id: str, envelope: Envelope) -> None:
        if sending.asked.get(node_id) is envelope:
            await self._no_more_tidying((node_id, envelope.request_id))
            await self._put(envelope, sending.frames[node_id], envelope.id)

    async def _put(self, asked: Envelope, data: bytes, message_id: str) -> None:
        """Stores a request at the hub, or something in its place, until its deadline."""
        subject = subjects.request(asked.recipient, self._me.party_id, asked.request_id)
        ttl = 0 if asked.seconds is None else math.ceil(asked.seconds) + 1
        await self.link.store(subject, data, message_id=message_id, ttl_seconds=ttl)

    async def _upload(self, sending: Sending, sha256: str, parts: list[bytes | memoryview]) -> None:
        """Uploads a payload, unless another sending has done so or is at it."""
        name = (sending.experiment_id, sha256)
        self._uses[name] = self._uses.get(name, 0) + 1
        if name not in self._uploads:

            def subject(chunk: int) -> str:
                return subjects.down(self._me.party_id, sending.experiment_id, sha256, chunk)

            async def upload() -> None:
                await self._no_more_tidying(name)
                there: Collection[int] = ()
                if sending.may_be_answered:  # else nobody can have begun to upload it
                    question = {"experiment": sending.experiment_id, "sha256": sha256}
                    there = await payloads.stored_chunks(self.link, question)
                await payloads.upload(self.link, subject, parts, key_of(self._me.keys, sha256), there)

            self._uploads[name] = asyncio.ensure_future(upload())
        await asyncio.shield(self._uploads[name])

    async def stop(self, sending: Sending) -> None:
        """Tells the nodes that are still at it to stop."""
        for node_id, asked in list(sending.asked.items()):
            envelope = Envelope(
                kind="stop",
                id=secrets.token_hex(16),
                sender=self._me.party_id,
                recipient=node_id,
                time=time.time(),
            )
            body = json.dumps({"requests": [asked.id]}).encode()
            frame = seal(envelope, body, self._me.keys)
            await self.link.tell(subjects.control(node_id, self._me.party_id), frame)

    async def finish(self, sending: Sending) -> None:
        """The sending is over, whether all have answered or not."""
        with suppress(ValueError):
            self._sendings.remove(sending)
        if sending.asked:
            await self.stop(sending)
            for envelope in sending.asked.values():
                # An empty message in its place, for nodes that are away, or cannot be told to stop.
                put = partial(self._put, envelope, b"", f"{envelope.id}-withdrawn")
                self._tidy(put, (envelope.recipient, envelope.request_id))
        for sha256 in sending.parts:
            name = (sending.experiment_id, sha256)
            if name not in self._uses:
                continue
            self._uses[name] -= 1
            if not self._uses[name]:
                del self._uses[name]
                if upload := self._uploads.pop(name, None):
                    upload.cancel()
                self.tidy("forget", {"experiment": sending.experiment_id, "sha256": sha256}, name)

    def tidy(self, verb: str, question: dict[str, Any], of: Key | None = None) -> None:
        """Has the desk delete something; if it cannot, the hub does so after some days."""
        if inline := self._inline.intersection(question.get("requests", ())):
            self._inline -= inline
            question = {**question, "inline": sorted(inline)}

        async def ask() -> None:
            await asyncio.wait_for(self.link.ask_desk(verb, question), 60)

        self._tidy(ask, of)

    def _tidy(self, work: Callable[[], Coroutine[Any, Any, None]], of: Key | None) -> None:
        async def done() -> None:
            try:
                await work()
            except (PolyclinicError, TimeoutError) as err:
                log.warning("the hub could not tidy up: %s", err)
            finally:
                if of is not None and self._tidying.get(of) is asyncio.current_task():
                    del self._tidying[of]

        task = self._start(done(), name="tidy")
        if of is not None:
            self._tidying[of] = task

    async def _no_more_tidying(self, of: Key) -> None:
        """What is sent again must not be deleted by what was still to be tidied up of the time before."""
        if task := self._tidying.get(of):
            await asyncio.wait((task,), timeout=_TIDY_SECONDS)
            task.cancel()

    # ---- replies

    async def _on_reply(self, message: Msg) -> None:
        _, _, node_id, request_id = message.subject.split(".", 3)
        sending = self._waiting_for(node_id, request_id)
        if sending is None:
            self._record_late(node_id, request_id)
            return
        # In the background, so that a large reply does not hold up the small ones.
        self._start(self._take(sending, node_id, message.data))

    def _waiting_for(self, node_id: str, request_id: str) -> Sending | None:
        for sending in self._sendings:
            asked = sending.asked.get(node_id)
            if asked and asked.request_id == request_id:
                return sending
        return None

    async def look_for_replies(self, sending: Sending) -> None:
        """Takes what is stored at the hub already."""

        async def look(node_id: str, envelope: Envelope) -> None:
            subject = subjects.reply(self._me.party_id, node_id, envelope.request_id)
            if data := await self.link.stored(subjects.REPLIES, subject):
                await self._take(sending, node_id, data)

        await asyncio.gather(*(look(node_id, envelope) for node_id, envelope in list(sending.asked.items())))

    async def _take(self, sending: Sending, node_id: str, frame: bytes) -> None:
        """Hands over a reply, if it is the one that is waited for, and is not being taken already."""
        asked = sending.asked.get(node_id)
        if asked is None or frame in sending.taking:
            return
        sending.taking.add(frame)
        try:
            await self._take_now(sending, node_id, frame, asked)
        finally:
            sending.taking.remove(frame)

    async def _take_now(self, sending: Sending, node_id: str, frame: bytes, asked: Envelope) -> None:
        try:
            envelope, body = unseal(frame)
            key = self._directory.require(node_id).key
            check(frame, envelope, key, self._me.party_id)
            if envelope.kind != "reply" or envelope.sender != node_id or envelope.request_id != asked.request_id:
                raise MessageError(f"a {envelope.kind} of {envelope.sender} came as a reply of {node_id}")
            body = read_body(envelope, body, self._me.keys, key)
            reply = await self._reply_in(sending, envelope, body, asked)
        except OtherVersion as err:
            reply = unread_reply(asked.request_id, node_id, err)
        except (PolyclinicError, OSError) as err:
            log.warning("a reply of node %s is refused: %s", node_id, err)
            return
        if reply is not None and sending.asked.get(node_id) is asked:
            # In this order: where nobody is asked and nothing has arrived, the sending is over.
            sending.arrived.put(reply)
            del sending.asked[node_id]

    async def _reply_in(self, sending: Sending, envelope: Envelope, body: bytes, asked: Envelope) -> Reply | None:
        """The reply with its tensors; None if it answers another question than this one, or is not waited for."""
        start, end = LOCK_BYTES if envelope.payload else 0, len(body) - envelope.tensors
        if end < start:
            raise MessageError("a reply whose tensors are not where its envelope says")
        message = codec.decode(body[start:end])
        if not isinstance(message, Reply) or (message.request_id, message.node_id) != (
            asked.request_id,
            asked.recipient,
        ):
            raise MessageError(f"a {message.kind} came as the reply to {asked.request_id}")
        # A failure of an earlier try says nothing about this one; what was done then, for the same work, does.
        fits = envelope.answers == asked.id or (envelope.digest == asked.digest and not isinstance(message, Failure))
        if not fits:
            return None
        if envelope.payload is None:
            self._inline.add(envelope.request_id)
        else:
            async with self._fetching:
                if sending.asked.get(asked.recipient) is not asked:
                    return None
                found = await self._download(envelope, envelope.payload, Lock.from_bytes(body[:start]))
            return message.model_copy(update={"tensors": found})
        if envelope.tensors:
            return message.model_copy(update={"tensors": tensors.decode(bytearray(body[end:]))})
        return message

    async def _download(self, envelope: Envelope, payload: Payload, lock: Lock) -> dict[str, Any]:
        def subject(chunk: int) -> str:
            ids = (self._me.party_id, envelope.sender, envelope.request_id)
            return subjects.up(*ids, payload.sha256, chunk)

        with tempfile.TemporaryDirectory(prefix="polyclinic-reply-") as folder:
            path = Path(folder) / "reply.safetensors"
            await payloads.download(self.link, subject, payload, lock, path)
            # Mapped, so the tensors live as long as they are used, also when the file's name is gone.
            return tensors.load_file(path)

    def _record_late(self, node_id: str, request_id: str) -> None:
        log.info("a reply of node %s to %s is not waited for", node_id, request_id)
        if self._folder is not None:
            row = {"time": time.time(), "node": node_id, "request_id": request_id}
            with suppress(OSError), (self._folder / _LATE).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    async def _watch(self) -> None:
        """Finds what was missed: replies while the connection was away, and nodes that vanished."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                # Not in a loop: its variable would hold a model until the next look.
                await asyncio.gather(*map(self.look_for_replies, self._sendings))
            except FederationError as err:
                # The hub has shut this researcher out.
                for sending in self._sendings:
                    sending.arrived.put(err)
                return
            if self.link.connected:
                self._directory.note_absence()

    def _start(self, work: Any, name: str | None = None) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
