"""Every name at the hub, and who may use it. The one source for the hub, the nodes and the researchers.

=====================================================  =========================================================
subject                                                what it carries
=====================================================  =========================================================
``req.<node>.<researcher>.<request>``                  a request; durable until its node has acknowledged it.
                                                       Empty: the one before it is withdrawn
``rep.<researcher>.<node>.<request>``                  its reply; durable until the researcher says `forget`
``down.<researcher>.<experiment>.<sha256>.<chunk>``    bytes from a researcher, once for all nodes
``up.<researcher>.<node>.<request>.<sha256>.<chunk>``  bytes of a node's reply, for this researcher only
``ctl.<node>.<researcher>``                            control, not durable: cancel
``live.<researcher>.<node>``                           progress, not durable
``$KV.NODES.<node>``                                   heartbeat; forgotten after `HEARTBEAT_TTL_SECONDS`
``desk.<verb>.<party>``                                questions to the hub's desk: see `DESK_VERBS`
``join.<token>``                                       a new party's public key
=====================================================  =========================================================

A node pulls its requests from a consumer that the hub made for it and that bears its id. Everything else that is
stored is read by its exact subject (JetStream's direct get: `direct_get`), and seen live by a plain subscription, so
that no party needs the right to make consumers, and a second program of the same party takes nothing from the first.

Direct get takes wildcards also in place of a subject's parts. A node can therefore fetch the ``down`` bytes of any
researcher; they are encrypted with a key that only the nodes that were asked get: see
`polyclinic.federation.over_nats.encryption`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from polyclinic.errors import ConfigError

REQUESTS = "REQUESTS"
REPLIES = "REPLIES"
PAYLOADS = "PAYLOADS"
NODES_BUCKET = "NODES"
NODES = f"KV_{NODES_BUCKET}"  # the stream behind the bucket; JetStream names it so

CHUNK_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 2 << 20  # a chunk and its headers, or a request's header; the server refuses more
HEARTBEAT_EVERY_SECONDS = 3.0
HEARTBEAT_TTL_SECONDS = 10.0
ACK_WAIT_SECONDS = 10.0  # after which a node that was killed and has come back is told again
PROGRESS_EVERY_SECONDS = 3.0

# What a party may ask of the desk; both question and answer are JSON objects. See polyclinic.federation.hub.desk.
DESK_VERBS = ("hello", "chunks", "forget")
REFRESH = "admin.refresh"  # from the operator's commands to the desk: the list of parties has changed

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,128}")


class Role(StrEnum):
    """What a party is at the hub."""

    NODE = "node"
    RESEARCHER = "researcher"


@dataclass(frozen=True)
class Permissions:
    """The subjects that one user of the server may publish to and subscribe to; all others are refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


def token(text: str) -> str:
    """The text, if it may stand between two dots of a subject.

    Raises:
        ConfigError: if it is empty, longer than 128 characters, or has any but ASCII letters, digits, ``-`` and ``_``.
    """
    if not _TOKEN.fullmatch(text):
        raise ConfigError(
            f"{text[:40]!r} cannot be part of a subject",
            to_do="use 1 to 128 letters, digits, hyphens and underscores",
        )
    return text


def request(node_id: str, researcher_id: str, request_id: str) -> str:
    """The subject of one request."""
    return _join("req", node_id, researcher_id, request_id)


def reply(researcher_id: str, node_id: str, request_id: str) -> str:
    """The subject of the reply to one request."""
    return _join("rep", researcher_id, node_id, request_id)


def down(researcher_id: str, experiment_id: str, sha256: str, chunk: int) -> str:
    """The subject of one chunk, counted from 0, of bytes that a researcher sends to its nodes."""
    return _join("down", researcher_id, experiment_id, sha256, str(chunk))


def up(researcher_id: str, node_id: str, request_id: str, sha256: str, chunk: int) -> str:
    """The subject of one chunk, counted from 0, of bytes that belong to a node's reply."""
    return _join("up", researcher_id, node_id, request_id, sha256, str(chunk))


def control(node_id: str, researcher_id: str) -> str:
    """Where a researcher reaches a node at work."""
    return _join("ctl", node_id, researcher_id)


def live(researcher_id: str, node_id: str) -> str:
    """Where a node tells a researcher how far it is."""
    return _join("live", researcher_id, node_id)


def heartbeat(node_id: str) -> str:
    """Where a node says that it is there: its key in the bucket `NODES_BUCKET`."""
    return f"$KV.{NODES_BUCKET}.{token(node_id)}"


def desk(verb: str, party_id: str) -> str:
    """Where a party asks the hub's desk something."""
    return _join("desk", verb, party_id)


def join(token_id: str) -> str:
    """Where the holder of a join token hands in its public key."""
    return _join("join", token_id)


def from_all(kind: str, party_id: str) -> str:
    """What a party subscribes to: all messages of a kind (``rep``, ``live``, ``ctl``) that are for it."""
    return f"{_join(kind, party_id)}.>"


def heartbeats() -> str:
    """The heartbeats of all nodes."""
    return f"$KV.{NODES_BUCKET}.*"


def direct_get(stream: str, subject: str) -> str:
    """Where the last stored message of exactly this subject is asked for, with an empty body.

    The answer is the message itself; or an empty one with the header ``Status: 404`` if there is none.
    """
    return f"$JS.API.DIRECT.GET.{stream}.{subject}"


def consumer(node_id: str) -> str:
    """The name of the consumer that a node pulls its requests from."""
    return token(node_id)


def inbox(party_id: str) -> str:
    """The prefix of the subjects at which a party gets answers; no other party may listen there."""
    return f"_INBOX.{token(party_id)}"


def joining_inbox(token_id: str) -> str:
    """The same, for the holder of a join token."""
    return f"_JOIN.{token(token_id)}"


def permissions(role: Role, party_id: str) -> Permissions:
    """What a party may do at the hub."""
    me = token(party_id)
    if role is Role.NODE:
        return Permissions(
            publish=(
                f"$JS.API.CONSUMER.INFO.{REQUESTS}.{consumer(me)}",
                f"$JS.API.CONSUMER.MSG.NEXT.{REQUESTS}.{consumer(me)}",
                f"$JS.ACK.{REQUESTS}.{consumer(me)}.>",
                direct_get(PAYLOADS, "down.*.*.*.*"),
                f"rep.*.{me}.*",
                f"up.*.{me}.*.*.*",
                f"live.*.{me}",
                heartbeat(me),
                f"desk.*.{me}",
            ),
            subscribe=(f"{inbox(me)}.>", from_all("ctl", me)),
        )
    return Permissions(
        publish=(
            direct_get(REPLIES, f"rep.{me}.*.*"),
            direct_get(PAYLOADS, f"up.{me}.*.*.*.*"),
            direct_get(NODES, heartbeats()),
            f"req.*.{me}.*",
            f"down.{me}.*.*.*",
            f"ctl.*.{me}",
            f"desk.*.{me}",
        ),
        subscribe=(f"{inbox(me)}.>", from_all("rep", me), from_all("live", me), heartbeats()),
    )


def joining_permissions(token_id: str) -> Permissions:
    """What the holder of a join token may do: hand in a key, and get the answer."""
    return Permissions(publish=(join(token_id),), subscribe=(f"{joining_inbox(token_id)}.>",))


def _join(*tokens: str) -> str:
    return ".".join(map(token, tokens))
