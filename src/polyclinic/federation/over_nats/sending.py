"""What is on its way between one `send` of a researcher and its replies."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field

from polyclinic import tensors
from polyclinic.errors import MessageError
from polyclinic.federation.node_state import NodeState
from polyclinic.federation.over_nats import payloads, subjects
from polyclinic.federation.over_nats.signing import Envelope, Payload
from polyclinic.messages.replies import Reply
from polyclinic.messages.requests import Request


@dataclass
class Sending:
    """One `send`: what is asked, and what has arrived.

    Args:
        frames: the signed requests, by node.
        asked: their envelopes, of those that are not answered yet.
        parts: the tensors that travel apart, by SHA-256.
        arrived: replies in the order they came, or the error that ended it.
        taking: frames of replies whose tensors are still on their way.
        states: what each node said last of itself; for people only.
    """

    frames: dict[str, bytes]
    asked: dict[str, Envelope]
    parts: dict[str, list[bytes | memoryview]]
    experiment_id: str
    may_be_answered: bool
    arrived: queue.SimpleQueue[Reply | BaseException] = field(default_factory=queue.SimpleQueue)
    taking: set[bytes] = field(default_factory=set)
    states: dict[str, NodeState] = field(default_factory=dict)


def described_tensors(request: Request, salt: bytes) -> tuple[list[bytes | memoryview], Payload | None]:
    """A request's tensors as bytes, and what names them, if they travel apart."""
    parts = tensors.encode(request.tensors) if request.tensors else []
    return parts, payloads.describe(parts, salt) if sum(map(len, parts)) > payloads.INLINE_BYTES else None


def require_fit(head: bytes) -> None:
    """Raises MessageError for a request that is too large without its tensors."""
    if len(head) > subjects.CHUNK_BYTES:
        raise MessageError(
            f"the request has {len(head) / 1e6:.1f} MB without its tensors, at most "
            f"{subjects.CHUNK_BYTES / 1e6:.1f} MB travel",
            to_do="a plan or its arguments are too large: data belong in a dataset at the node",
        )
