"""What a researcher knows of the nodes: names, keys, which of them are there, and what data they hold.

Kept in the researcher's identity folder, so that a node that is away is known all the same, and so that a node's key is
the one that was seen first: if the hub names another one later, its replies are refused.
"""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from polyclinic.errors import FederationError, OtherVersion, nearest
from polyclinic.federation.federation import NodeInfo
from polyclinic.federation.node_state import clock
from polyclinic.federation.over_nats import subjects
from polyclinic.messages.replies import DatasetInfo, Failure, SearchReply
from polyclinic.messages.requests import Request
from polyclinic.messages.version import MAJOR, as_of, needed_minor, parse_version

log = logging.getLogger("polyclinic.federation")

_FILE = "nodes.json"
_FIRST_VERSIONS = {"messages": "1.0"}  # of a node that does not tell any, as none did then


@dataclass
class KnownNode:
    """A node.

    Args:
        key: its public key.
        heard: when its last heartbeat came, on the clock of `time.monotonic`; None: not since this program began.
        last_heard: when its last heartbeat came that anybody knows of, in seconds since 1970; 0: nobody does.
        is_missed: whether it was noted that it is away.
        working: what it works on (``state``) and for whom (``researcher``), as of its last heartbeat.
        queue: how many requests wait for it, by researcher.
        versions: of its ``polyclinic`` and its ``messages``.
    """

    name: str
    key: str
    datasets: list[dict[str, Any]] = field(default_factory=list)
    heard: float | None = None
    last_heard: float = 0.0
    is_missed: bool = False
    working: dict[str, Any] | None = None
    queue: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def is_there(self) -> bool:
        """Whether it was heard of in the last ten seconds."""
        return self.heard is not None and time.monotonic() < self.heard + subjects.HEARTBEAT_TTL_SECONDS

    def describe(self) -> str:
        """What it is at, in a few words."""
        if not self.is_there:
            return f"offline since {clock(self.last_heard)}" if self.last_heard else "offline"
        waiting = sum(self.queue.values())
        whose = ", ".join(f"{number} of {who}" for who, number in self.queue.items())
        queue = f"; {waiting} waiting ({whose})" if waiting else ""
        if self.working is None:
            return f"idle{queue}"
        return f"{self.working['state']} for {self.working['researcher']}{queue}"

    def found_datasets(self) -> list[DatasetInfo]:
        """What it said last that it holds; nothing of what is not understood here."""
        found = []
        for one in self.datasets:
            with suppress(ValidationError):
                found.append(DatasetInfo.model_validate_json(json.dumps(one)))
        return found

    def as_read(self, request: Request) -> Request:
        """The request as it is sent to this node: without what can be left out for an older one."""
        theirs = parse_version(self.versions.get("messages"))
        return as_of(request, theirs[1]) if theirs and theirs[0] == MAJOR else request

    def unread(self, node_id: str, request: Request) -> Failure | None:
        """What stands for this node's answer to a request that it cannot read; None if it can, as far as is known."""
        theirs = parse_version(self.versions.get("messages"))
        needed = (MAJOR, needed_minor(self.as_read(request)))
        if theirs is None or (theirs[0] == MAJOR and theirs >= needed):
            return None
        return Failure(
            request_id=request.request_id,
            node_id=node_id,
            code=OtherVersion.code,
            stage="send",
            what=f"node {self.name} reads messages of version {self.versions['messages']} (its Polyclinic is "
            f"{self.versions.get('polyclinic', 'of an unknown version')}), this request needs {needed[0]}.{needed[1]}",
            to_do="install the newer Polyclinic at the side that has the older one; or leave out what is new, or this "
            "node (polyclinic federation show has all nodes' versions)",
        )


class Directory:
    """The nodes of a hub.

    Args:
        folder: the researcher's identity folder; None: nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = None if folder is None else folder / _FILE
        self._keys: dict[str, str] = {}
        self._datasets: dict[str, list[dict[str, Any]]] = {}
        self._names: dict[str, str] = {}
        self.nodes: dict[str, KnownNode] = {}
        self._read()

    def update(self, parties: list[dict[str, Any]], hub_time: float = 0.0) -> None:
        """Takes over who belongs to the hub.

        Args:
            parties: ``id``, ``name``, ``key``, and ``heard``: when its last heartbeat came, by the hub's clock.
            hub_time: of now, by that clock.
        """
        before, self.nodes = self.nodes, {}
        for party in sorted(parties, key=lambda party: party["id"]):
            node_id, key = party["id"], party["key"]
            if self._keys.setdefault(node_id, key) != key:
                log.error(
                    "the hub names another key for node %s than before; its replies are refused. If the node joined "
                    "anew, delete its entry in %s",
                    node_id,
                    self._path,
                )
            name = self._names.get(node_id, party["name"])
            self.nodes[node_id] = before.get(node_id) or KnownNode(
                name, self._keys[node_id], self._datasets.get(node_id, [])
            )
            if heard := party.get("heard"):
                known = self.nodes[node_id]
                known.last_heard = max(known.last_heard, time.time() - (hub_time - float(heard)))
        self._write()

    def as_before(self) -> bool:
        """Falls back on what was known before; False if that is nothing."""
        for node_id, key in self._keys.items():
            name = self._names.get(node_id, node_id)
            self.nodes.setdefault(node_id, KnownNode(name, key, self._datasets.get(node_id, [])))
        return bool(self.nodes)

    def heard(self, node_id: str, data: bytes) -> None:
        """Takes over a heartbeat."""
        known = self.nodes.get(node_id)
        if known is None:
            return
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            about = json.loads(data)
            known.queue = {str(who): int(number) for who, number in about.get("queue", {}).items()}
            told = about.get("versions", _FIRST_VERSIONS)
            known.versions = {str(what): str(number)[:20] for what, number in told.items()}
            known.working = _working(about.get("working"))
            if (known.name, known.datasets) != (about["name"], about["datasets"]):
                # What the node calls itself counts, and not what it was called when it was invited.
                known.name, known.datasets = str(about["name"]), list(about["datasets"])
                self._write()
        if known.is_missed:
            log.info("node %s is there again", known.name)
        known.heard, known.last_heard, known.is_missed = time.monotonic(), time.time(), False

    def note_absence(self) -> None:
        """Says once of each node that it has vanished."""
        for known in self.nodes.values():
            if not known.is_there and not known.is_missed:
                known.is_missed = True
                log.info("node %s is %s; what it is asked waits for it", known.name, known.describe())

    def infos(self) -> list[NodeInfo]:
        """The nodes, by id."""
        return [NodeInfo(node_id, known.name) for node_id, known in sorted(self.nodes.items())]

    def require(self, node_id: str) -> KnownNode:
        """The node with this id.

        Raises:
            FederationError: there is none.
        """
        if node_id not in self.nodes:
            raise FederationError(f"there is no node {node_id!r}", to_do=nearest(node_id, self.nodes))
        return self.nodes[node_id]

    def search(self, node_id: str, request_id: str, tags: tuple[str, ...]) -> SearchReply:
        """What the node said last that it holds, for when it is not there to ask."""
        known = self.nodes[node_id]
        chosen = tuple(info for info in known.found_datasets() if set(tags) <= set(info.tags))
        return SearchReply(request_id=request_id, node_id=node_id, node_name=known.name, datasets=chosen)

    def _read(self) -> None:
        if self._path is None:
            return
        with suppress(OSError, ValueError, KeyError, AttributeError, TypeError):
            for node_id, kept in json.loads(self._path.read_text(encoding="utf-8")).items():
                self._keys[node_id], self._names[node_id] = kept["key"], kept["name"]
                self._datasets[node_id] = kept["datasets"]

    def _write(self) -> None:
        self._names |= {node_id: known.name for node_id, known in self.nodes.items()}
        self._datasets |= {node_id: known.datasets for node_id, known in self.nodes.items()}
        if self._path is None:
            return
        kept = {
            node_id: {
                "name": self._names.get(node_id, node_id),
                "key": key,
                "datasets": self._datasets.get(node_id, []),
            }
            for node_id, key in self._keys.items()
        }
        partial = self._path.with_suffix(".partial")
        with suppress(OSError):
            partial.write_text(json.dumps(kept, indent=1), encoding="utf-8")
            partial.replace(self._path)


def unread_reply(request_id: str, node_id: str, err: OtherVersion) -> Failure:
    """What stands for a reply that cannot be read here."""
    what = f"node {node_id} answered with {err.what}"
    return Failure(request_id=request_id, node_id=node_id, code=err.code, stage="receive", what=what, to_do=err.to_do)


def _working(told: Any) -> dict[str, str] | None:
    return None if told is None else {"state": str(told["state"])[:40], "researcher": str(told["researcher"])[:200]}
