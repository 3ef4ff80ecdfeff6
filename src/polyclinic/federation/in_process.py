"""Nodes in this very process: the default, for notebooks, teaching, research and tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Self

from polyclinic.errors import Cancelled, DeadlinePassed, FederationError, nearest
from polyclinic.federation.federation import Federation, NodeInfo
from polyclinic.federation.node_state import TRAINING, Heard, NodeState, Watchers
from polyclinic.messages.replies import Failure, Reply
from polyclinic.messages.requests import Request, WorkRequest
from polyclinic.node.database import node_folders
from polyclinic.node.node import Node
from polyclinic.node.stop import Stop


class InProcessFederation(Federation):
    """Nodes that work one after the other, in the order of their ids. Messages are handed over, not copied.

    Args:
        nodes: ids must differ.

    Raises:
        FederationError: if two nodes have the same id.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._nodes: dict[str, Node] = {}
        for node in sorted(nodes, key=lambda node: node.node_id):
            if other := self._nodes.get(node.node_id):
                places = " and ".join(str(n.folder or "memory") for n in (other, node))
                raise FederationError(
                    f"two nodes have the id {node.node_id!r}: in {places}",
                    to_do="a node's folder must not be copied; make another node with: polyclinic node create NAME",
                )
            self._nodes[node.node_id] = node
        self._working = threading.Lock()
        self._sends: list[tuple[set[str], Stop]] = []
        self._watchers = Watchers()

    @classmethod
    def at(cls, place: Path) -> Self:
        """The nodes whose folders lie in ``place``.

        Raises:
            FederationError: if there are none.
        """
        return cls(open_nodes(place))

    def each_node(self) -> list[Node]:
        """The nodes themselves, by id."""
        return list(self._nodes.values())

    def nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node.node_id, node.name) for node in self._nodes.values()]

    def send(self, requests: Mapping[str, Request], deadline: float | None = None) -> Iterator[Reply]:
        self._require_nodes(requests)
        return self._send(requests, deadline)

    def _send(self, requests: Mapping[str, Request], deadline: float | None) -> Iterator[Reply]:
        stop = Stop(deadline)
        sending = ({r.experiment_id for r in requests.values() if isinstance(r, WorkRequest)}, stop)
        self._sends.append(sending)
        answer = self._answering(requests, stop)
        try:
            for node_id in sorted(requests):
                request = requests[node_id]
                if stop.cancelled.is_set():
                    yield stopped(request.request_id, node_id)
                elif deadline is not None and time.monotonic() > deadline:
                    yield late(request.request_id, node_id)
                else:
                    with self._working:
                        reply = answer(node_id)
                    yield reply
        finally:
            self._sends.remove(sending)

    def _answering(self, requests: Mapping[str, Request], stop: Stop) -> Callable[[str], Reply]:
        """How a node's reply comes about. Nodes are asked for by id, one at a time; not all need be asked for."""

        def answer(node_id: str) -> Reply:
            request = requests[node_id]
            if self._watchers.of(request):
                stop.told = lambda progress: self._watchers.tell(
                    request, NodeState(node_id, TRAINING, progress=progress)
                )
            return self._nodes[node_id].handle(request, stop)

        return answer

    def _require_nodes(self, node_ids: Iterable[str]) -> None:
        for node_id in node_ids:
            if node_id not in self._nodes:
                raise FederationError(f"there is no node {node_id!r}", to_do=nearest(node_id, self._nodes))

    def cancel(self, experiment_id: str) -> None:
        for experiments, stop in list(self._sends):
            if experiment_id in experiments:
                stop.cancelled.set()

    def watch(self, experiment_id: str, heard: Heard) -> AbstractContextManager[None]:
        return self._watchers.watch(experiment_id, heard)

    @contextmanager
    def in_use(self, node_ids: Iterable[str]) -> Iterator[None]:
        node_ids = list(node_ids)
        self._require_nodes(node_ids)
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
    folders = node_folders(place)
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
        code=DeadlinePassed.code,
        stage="wait",
        what="the round's deadline passed before this node had answered",
        to_do="raise deadline_seconds, lower epochs or num_updates, or lower min_nodes to go on without it",
    )


def stopped(request_id: str, node_id: str) -> Failure:
    """What stands for a node that had not begun when its experiment was cancelled."""
    return Failure(
        request_id=request_id,
        node_id=node_id,
        code=Cancelled.code,
        stage="wait",
        what="the experiment was stopped on request before this node had begun",
        to_do="run the experiment on when you like",
    )
