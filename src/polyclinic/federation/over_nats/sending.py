"""What is on its way between one `send` of a researcher and its replies."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field

from polyclinic.federation.node_state import NodeState
from polyclinic.federation.over_nats.signing import Envelope
from polyclinic.messages.replies import Reply


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
