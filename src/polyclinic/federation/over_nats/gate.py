"""What a node lets in: requests of researchers that its data manager trusts, as they signed them, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

from nats.aio.msg import Msg

from polyclinic.errors import MessageError, NodeError, NotTrusted
from polyclinic.federation.over_nats.connection import Link
from polyclinic.federation.over_nats.encryption import LOCK_BYTES
from polyclinic.federation.over_nats.node_journal import note_trust
from polyclinic.federation.over_nats.signing import (
    MAX_ENVELOPE_BYTES,
    Envelope,
    check,
    content_digest,
    read_body,
    unseal,
)
from polyclinic.federation.over_nats.trust import Trust
from polyclinic.messages import codec
from polyclinic.messages.requests import Request, WorkRequest
from polyclinic.node.journal import Journal


class Gate:
    """The gate of one node.

    Args:
        node_folder: the trust list in it counts as it is at each message.
        link: to ask the hub for keys, where everyone is trusted.
        journal: where it is written down that the hub was believed; None: nowhere.

    Attributes:
        let_in: the public keys of researchers whose messages came in.
    """

    def __init__(self, node_folder: Path, link: Link, journal: Journal | None = None) -> None:
        self._folder = node_folder
        self._link = link
        self._journal = journal
        self.let_in: dict[str, str] = {}
        self._read: tuple[tuple[int, ...], Trust] | None = None

    async def request(self, message: Msg) -> tuple[Envelope, Request, bytes]:
        """The request in a message, without its tensors, and the tensors that came with it, or the `Lock` of those
        that travel apart.

        Raises:
            MessageError: it is none, or not as it was signed.
            NotTrusted: of a researcher that this node does not work for.
        """
        envelope, body = await self._opened(message, "request")
        return envelope, *_request_in(envelope, body)

    async def stops(self, message: Msg) -> tuple[str, list[str]]:
        """The researcher that wants work to be stopped, and the ids of the requests' frames.

        Raises:
            MessageError, NotTrusted: as for requests.
        """
        envelope, body = await self._opened(message, "stop")
        try:
            return envelope.sender, [str(name) for name in json.loads(body)["requests"]]
        except (ValueError, KeyError, TypeError):
            raise MessageError("a stop that does not say what") from None

    async def still_trusted(self, researcher: str) -> str:
        """The public key of a researcher whose message came in before.

        Raises:
            NotTrusted: they, or the key that it was signed with, were taken off the list since.
        """
        key = await self._key_of(researcher)
        if key != self.let_in.get(researcher):
            raise NotTrusted(f"researcher {researcher} has another key now than when this was asked", to_do="ask again")
        return key

    def trusts(self, researcher: str) -> bool:
        """What `still_trusted` says, as far as the node's own list tells; the hub is not asked."""
        try:
            trust = self._trust()
        except NodeError:
            return False
        key = trust.keys.get(researcher)
        return trust.everyone if key is None else key == self.let_in.get(researcher)

    def _trust(self) -> Trust:
        version = Trust.version(self._folder)
        if self._read is None or self._read[0] != version:
            self._read = version, Trust.load(self._folder)
        return self._read[1]

    async def _opened(self, message: Msg, kind: str) -> tuple[Envelope, bytes]:
        # The server guards the subject, so whoever is refused here is named rightly.
        researcher = message.subject.split(".")[2]
        envelope, body = unseal(message.data)
        if envelope.kind != kind or envelope.sender != researcher:
            raise MessageError(f"a {envelope.kind} of {envelope.sender} came as a {kind} of {researcher}")
        key = await self._key_of(researcher)
        check(message.data, envelope, key, self._link.identity.party_id)
        body = read_body(envelope, body, self._link.identity.keys, key)
        self.let_in[researcher] = key
        return envelope, body

    async def _key_of(self, researcher: str) -> str:
        trust = self._trust()
        if researcher not in trust.keys and trust.everyone:
            known = {party["id"]: party["key"] for party in (await self._link.ask_desk("hello", {}))["parties"]}
            if researcher in known:
                before, trust = trust, trust.plus(researcher, known[researcher])
                trust.save(self._folder)
                if self._journal is not None:
                    note_trust(self._journal, before, trust, by="hub")
        if researcher not in trust.keys:
            me = self._link.identity.party_id
            raise NotTrusted(
                f"node {me} does not trust researcher {researcher}",
                to_do=f"its data manager can: polyclinic node trust {self._folder.name} {researcher}",
            )
        return trust.keys[researcher]


def _request_in(envelope: Envelope, body: bytes) -> tuple[Request, bytes]:
    """The request, without its tensors, and the tensors that came with it or the lock of those that travel apart.

    Raises:
        MessageError: the body is not what the envelope says.
    """
    start = LOCK_BYTES if envelope.payload else 0
    end = len(body) - envelope.tensors
    if end < start or (envelope.tensors and envelope.payload):
        raise MessageError("a request whose tensors are not where its envelope says")
    head, inline = body[start:end], body[end:]
    message = codec.decode(head)
    if not isinstance(message, Request) or message.request_id != envelope.request_id:
        raise MessageError(f"a {message.kind} came as request {envelope.request_id}")
    if isinstance(message, WorkRequest) and message.experiment_id != envelope.experiment_id:
        raise MessageError("a request whose envelope names another experiment")
    tensors = envelope.payload.sha256 if envelope.payload else hashlib.sha256(inline).hexdigest()
    if content_digest(head, tensors) != envelope.digest:
        raise MessageError("a request whose content is not what its envelope says")
    return message, body[:start] or inline


def id_in(frame: bytes) -> str:
    """The id of a frame that was refused, so that whoever sent it knows which one; "" if it has none."""
    # Before anything is checked: whatever bytes do to the parser, a thousand brackets too.
    with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError):
        length = min(int.from_bytes(frame[64:68], "little"), MAX_ENVELOPE_BYTES)
        name = json.loads(frame[68 : 68 + length]).get("id", "")
        return name if isinstance(name, str) and len(name) <= 200 else ""
    return ""
