"""The narrow waist between an experiment and its nodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

from polyclinic.federation.node_state import NodeState
from polyclinic.messages.replies import Reply
from polyclinic.messages.requests import Request


@dataclass(frozen=True)
class NodeInfo:
    """A node that can be reached."""

    node_id: str
    name: str


class Federation(ABC):
    """The nodes one can reach. One contract suite runs on every implementation."""

    # Whether nodes have data managers who decide what may run; else the researcher is the data manager.
    asks_approval: ClassVar[bool] = False

    @abstractmethod
    def nodes(self) -> list[NodeInfo]:
        """The nodes, by id."""

    @abstractmethod
    def send(self, requests: Mapping[str, Request], deadline: float | None = None) -> Iterator[Reply]:
        """Sends one request to each named node, and yields one reply from each, in order of arrival.

        Every node is answered for: what a node cannot do, and a node that is lost or late, comes as a `Failure`.
        Where tensors are shared with the node (in process), replies come in the order of node ids and a reply's
        tensors are valid until the next one is asked for; everywhere else a reply owns them.

        Args:
            requests: by node id.
            deadline: on the clock of `time.monotonic`; nodes that are not done by then fail. None: no deadline.

        Raises:
            FederationError: a node is not there; nothing was sent then.
        """

    @abstractmethod
    def cancel(self, experiment_id: str) -> None:
        """Stops this experiment's work at all nodes after the batch they are at. May be called from any thread."""

    def watch(self, experiment_id: str, heard: Callable[[NodeState], None]) -> AbstractContextManager[None]:  # noqa: ARG002
        """Has ``heard`` called with what nodes are at, while replies to this experiment's requests are waited for.

        It is called in the thread that waits. States are for people to watch; none need ever come.
        """
        return nullcontext()

    def in_use(self, node_ids: Iterable[str]) -> AbstractContextManager[None]:  # noqa: ARG002
        """Keeps other programs of this machine out of the nodes' folders meanwhile.

        Raises:
            NodeInUse: if another program is in one.
            FederationError: a node is not there.
        """
        return nullcontext()

    def close(self) -> None:  # noqa: B027 (most have nothing to close)
        """Ends worker processes and connections. Sending again opens them again."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(node.name for node in self.nodes())})"

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(f"<tr><td>{escape(n.node_id)}</td><td>{escape(n.name)}</td></tr>" for n in self.nodes())
        return f"<table><tr><th>node</th><th>name</th></tr>{rows}</table>"
