"""Nodes in this very process: the default, for notebooks, teaching, research and tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from polyclinic.errors import FederationError, nearest
from polyclinic.federation.federation import Federation, NodeInfo
from polyclinic.messages.replies import Failure, Reply
from polyclinic.messages.requests import Request, WorkRequest
from polyclinic.node.node import DATABASE, Node
from polyclinic.node.stop import Stop


class InProcessFederation(Federation):
    """Nodes that work one after the other, in the order of their ids. Messages are handed over, not copied.

    Args:
        nodes: ids must differ.

    Raises:
        FederationError: if two nodes have the same id.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._nodes = {node.node_id: node for node in sorted(nodes, key=lambda node: node.node_id)}
        self._working = threading.Lock()
        self._stops: dict[str, threading.Event] = {}
        self._owned: list[Any] = []

    @classmethod
    def at(cls, place: Path) -> InProcessFederation:
        """The nodes whose folders lie in ``place``.

        Raises:
            FederationError: if there are none.
        """
        return cls(open_nodes(place))

    def each_node(self) -> list[Node]:
        """The nodes themselves, by id."""
        return list(self._nodes.values())

    def keep_alive(self, what: Any) -> None:
        """Holds on to what must live as long as this federation, for example a temporary folder."""
        self._owned.append(what)

    def nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node.node_id, node.name) for node in self._nodes.values()]

    def send(self, requests: Mapping[str, Request], deadline: float | None = None) -> Iterator[Reply]:
        for node_id in requests:
            if node_id not in self._nodes:
                raise FederationError(f"there is no node {node_id!r}", to_do=nearest(node_id, self._nodes))
        experiments = {r.experiment_id for r in requests.values() if isinstance(r, WorkRequest)}
        stop = Stop(deadline)
        self._stops |= dict.fromkeys(experiments, stop.cancelled)
        try:
            for node_id, node in self._nodes.items():
                if node_id in requests:
                    request = requests[node_id]
                    if deadline is not None and time.monotonic() > deadline:
                        yield late(request.request_id, node_id)
                        continue
                    with self._working:
                        reply = node.handle(request, stop)
                    yield reply
        finally:
            for experiment in experiments:
                self._stops.pop(experiment, None)

    def cancel(self, experiment_id: str) -> None:
        if event := self._stops.get(experiment_id):
            event.set()

    @contextmanager
    def in_use(self, node_ids: Iterable[str]) -> Iterator[None]:
        with ExitStack() as stack:
            for node_id in node_ids:
                stack.enter_context(self._nodes[node_id].in_use())
            yield


def open_nodes(place: Path) -> list[Node]:
    """The nodes whose folders lie in ``place``, sharing this process's workbenches.

    Raises:
        FederationError: if there are none.
    """
    from polyclinic.node.workbenches import Workbenches

    workbenches = Workbenches()
    folders = sorted(path.parent for path in place.glob(f"*/{DATABASE}"))
    if not folders:
        raise FederationError(
            f"there are no nodes at {place}",
            to_do="make some with: polyclinic federation create fed_heart_disease; or name another place with --at, "
            "the environment variable POLYCLINIC_FEDERATION, or Experiment(federation=…)",
        )
    return [Node.open(folder, workbenches=workbenches) for folder in folders]


def late(request_id: str, node_id: str) -> Failure:
    """What stands for a node that the deadline left no time to begin, or to finish."""
    return Failure(
        request_id=request_id,
        node_id=node_id,
        code="deadline",
        stage="wait",
        what="the round's deadline passed before this node had answered",
        to_do="raise deadline_seconds, lower epochs or num_updates, or lower min_nodes to go on without it",
    )
