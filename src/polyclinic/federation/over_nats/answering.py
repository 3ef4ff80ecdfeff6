"""How a node's replies get to the hub."""

from __future__ import annotations

import asyncio
import mmap
import secrets
import time
from collections.abc import Collection, Mapping
from pathlib import Path

from polyclinic.errors import MessageError
from polyclinic.federation.over_nats import payloads, subjects
from polyclinic.federation.over_nats.connection import Link
from polyclinic.federation.over_nats.encryption import Lock, key_of, salt_of
from polyclinic.federation.over_nats.signing import Envelope, Payload, seal
from polyclinic.federation.over_nats.stored_replies import Answer
from polyclinic.messages.replies import Failure

# Of a reply without its tensors; the rest of what fits is for envelope and tensors.
_MAX_BODY_BYTES = subjects.CHUNK_BYTES


class Answering:
    """The replies of one node.

    Args:
        link: of the node.
        keys: the public keys of researchers that were let in; others are answered in the clear.
    """

    def __init__(self, link: Link, keys: Mapping[str, str]) -> None:
        self._link = link
        self._keys = keys
        self._me = link.identity

    async def answer(self, asked: Envelope, answer: Answer, *, again: bool = False) -> None:
        """Signs a reply, and stores it at the hub; its tensors before it, if they are large.

        Args:
            again: it may have been sent before, as a whole or in part.

        Raises:
            FederationError: the hub does not take it.
        """
        envelope = self._envelope(asked.sender, asked.request_id, answers=asked.id).model_copy(
            update={"experiment_id": asked.experiment_id, "round": asked.round, "digest": asked.digest}
        )
        if answer.tensors is None:
            await self._publish(envelope, answer, b"")
        elif (size := answer.tensors.stat().st_size) <= payloads.INLINE_BYTES:
            await self._publish(envelope.model_copy(update={"tensors": size}), answer, answer.tensors.read_bytes())
        else:
            payload, lock = await self._upload(envelope, answer.tensors, again=again)
            await self._publish(envelope.model_copy(update={"payload": payload}), answer, b"", lock.to_bytes())

    async def refuse(self, researcher: str, answers: str, failure: Failure) -> None:
        """Answers a request that was not let in; ``answers``: the id of its frame, if it has one."""
        await self._publish(self._envelope(researcher, failure.request_id, answers=answers), Answer(failure), b"")

    async def _upload(self, envelope: Envelope, path: Path, *, again: bool) -> tuple[Payload, Lock]:
        salt = salt_of(self._me.keys, envelope.recipient)
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = memoryview(mapped)
            try:
                payload = await asyncio.to_thread(payloads.describe, [view], salt)

                def subject(chunk: int) -> str:
                    ids = (envelope.recipient, self._me.party_id, envelope.request_id)
                    return subjects.up(*ids, payload.sha256, chunk)

                lock = Lock(salt, key_of(self._me.keys, payload.sha256))
                there: Collection[int] = ()
                if again:
                    of = {"researcher": envelope.recipient, "request": envelope.request_id}
                    there = await payloads.stored_chunks(self._link, {**of, "sha256": payload.sha256})
                await payloads.upload(self._link, subject, [view], lock.key, there)
                return payload, lock
            finally:
                view.release()

    def _envelope(self, researcher: str, request_id: str, *, answers: str) -> Envelope:
        return Envelope(
            kind="reply",
            id=secrets.token_hex(16),
            sender=self._me.party_id,
            recipient=researcher,
            time=time.time(),
            request_id=request_id,
            answers=answers,
        )

    async def _publish(self, envelope: Envelope, answer: Answer, inline: bytes, lock: bytes = b"") -> None:
        body, reply = answer.body, answer.reply
        if len(body) > _MAX_BODY_BYTES:
            what = f"the reply has {len(body) / 1e6:.1f} MB without its tensors, which is more than travels"
            failure = Failure(
                request_id=reply.request_id, node_id=reply.node_id, code=MessageError.code, stage="send", what=what
            )
            body, inline, lock = Answer(failure).body, b"", b""
            envelope = envelope.model_copy(update={"tensors": 0, "payload": None})
        subject = subjects.reply(envelope.recipient, self._me.party_id, envelope.request_id)
        frame = seal(envelope, lock + body + inline, self._me.keys, to=self._keys.get(envelope.recipient, ""))
        await self._link.store(subject, frame, message_id=envelope.id)
