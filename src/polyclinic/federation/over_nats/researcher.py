"""The nodes of hospitals, reached through a hub."""

from __future__ import annotations

import queue
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from html import escape
from pathlib import Path

from polyclinic.errors import NotTrusted
from polyclinic.federation.federation import Federation, NodeInfo
from polyclinic.federation.in_process import late, stopped
from polyclinic.federation.node_state import Heard, Watchers
from polyclinic.federation.over_nats.correspondence import Correspondence
from polyclinic.federation.over_nats.directory import Directory
from polyclinic.federation.over_nats.event_loop import LoopThread
from polyclinic.federation.over_nats.identity import Identity
from polyclinic.federation.over_nats.live import Showing
from polyclinic.federation.over_nats.overview import COLUMNS, Overview, overview
from polyclinic.federation.over_nats.sending import Sending
from polyclinic.messages.replies import Failure, Reply
from polyclinic.messages.requests import CheckRequest, Request, SearchRequest, TrainRequest

# A node that is there and does not answer a search within this is taken at what it said last.
_SEARCH_SECONDS = 15.0
# So long after it is there a node's heartbeat comes, at a bad moment.
_HEARTBEAT_SECONDS = 6.0
# Nodes at work have this long to say that they have stopped.
_STOP_SECONDS = 3.0
_LOOK_SECONDS = 0.1


class NatsFederation(Federation):
    """The nodes that have joined a hub, wherever they are.

    A request waits at the hub for a node that is away; a round without a deadline waits for it for ``patience``
    seconds, and then goes on without it.

    Replies to training stay at the hub until the experiment sends its next round, or leaves `in_use`: whoever is killed
    before finds them again.

    Args:
        folder: of a researcher's identity (``polyclinic federation use TOKEN`` makes one).
        patience: how long a node may be away from a round that has no deadline.

    Raises:
        FederationError: there is no identity.
    """

    asks_approval = True

    def __init__(self, folder: str | Path, *, patience: float = 600.0) -> None:
        self._folder = Path(folder)
        self._me = Identity.load(self._folder)
        self._patience = patience
        self._directory = Directory(self._folder)
        self._open: tuple[LoopThread, Correspondence] | None = None
        self._ending: weakref.finalize[..., NatsFederation] | None = None
        self._opening = threading.Lock()
        self._cancelled: dict[int, tuple[str, threading.Event]] = {}
        self._written: dict[tuple[int, str], tuple[int, list[str]]] = {}
        self._begun: set[str] = set()
        self._watchers = Watchers()

    @property
    def title(self) -> str:
        """Which hub this is, and who is there, for a reader."""
        return f"the hub {self._me.hub_name!r}, seen by {self._me.name!r} (id {self._me.party_id})"

    def nodes(self) -> list[NodeInfo]:
        loop, correspondence = self._connected()
        loop.run(correspondence.refresh())
        return self._directory.infos()

    def overview(self) -> Overview:
        """Who is there, at what, and with which data.

        Raises:
            FederationError: the hub is not there.
        """
        self.nodes()
        return overview(self._directory.nodes)

    def send(self, requests: Mapping[str, Request], deadline: float | None = None) -> Iterator[Reply]:
        self._require_nodes(requests)
        loop, correspondence = self._connected()
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        requests = {node_id: self._directory.nodes[node_id].as_read(request) for node_id, request in requests.items()}
        # Before anything is sent, so that what is too large is an error here.
        sending = correspondence.prepare(requests, seconds)
        return self._send(dict(requests), deadline, sending, loop, correspondence)

    def _send(
        self,
        requests: Mapping[str, Request],
        deadline: float | None,
        sending: Sending,
        loop: LoopThread,
        correspondence: Correspondence,
    ) -> Iterator[Reply]:
        if deadline is not None and time.monotonic() > deadline:
            yield from (late(request.request_id, node_id) for node_id, request in requests.items())
            return
        yield from self._answered_here(requests, sending)
        self._note_round(requests, sending, correspondence, loop)
        cancelled = threading.Event()
        self._cancelled[id(sending)] = (sending.experiment_id, cancelled)
        waiting = set(sending.asked)
        delivering = loop.start(correspondence.deliver(sending))
        try:
            yield from self._replies(requests, deadline, sending, waiting, cancelled, (loop, correspondence))
        finally:
            del self._cancelled[id(sending)]
            delivering.cancel()
            with suppress(Exception):
                loop.run(correspondence.finish(sending), 5)
                if not any(isinstance(request, TrainRequest) for request in requests.values()):
                    done = [request.request_id for request in requests.values()]
                    loop.call(correspondence.tidy, "forget", {"requests": done})

    def _replies(
        self,
        requests: Mapping[str, Request],
        deadline: float | None,
        sending: Sending,
        waiting: set[str],
        cancelled: threading.Event,
        at_hub: tuple[LoopThread, Correspondence],
    ) -> Iterator[Reply]:
        began, told = time.monotonic(), 0.0
        showing = Showing(self._watchers, self._directory, requests, sending.states)
        while waiting:
            with suppress(queue.Empty):
                arrived = sending.arrived.get(timeout=_LOOK_SECONDS)
                if isinstance(arrived, BaseException):
                    raise arrived
                waiting.discard(arrived.node_id)
                yield self._of_interest(requests[arrived.node_id], arrived)
                continue
            showing.look(list(sending.asked), connected=at_hub[1].link.connected)
            now = time.monotonic()
            if cancelled.is_set() and not told:
                told = now
                at_hub[0].run(at_hub[1].stop(sending))
            for node_id in list(sending.asked):
                request = requests[node_id]
                instead: Reply | None = None
                if deadline is not None and now > deadline:
                    instead = late(request.request_id, node_id)
                elif told and now > told + _STOP_SECONDS:
                    instead = stopped(request.request_id, node_id)
                else:
                    instead = self._given_up(node_id, request, began)
                if instead is not None and at_hub[0].run(_give_up(sending, node_id)):
                    waiting.discard(node_id)
                    yield instead

    def _given_up(self, node_id: str, request: Request, began: float) -> Reply | None:
        """What stands for a node that is not waited for any longer."""
        known = self._directory.nodes.get(node_id)
        away = known is None or not known.is_there
        waited = time.monotonic() - began
        if isinstance(request, SearchRequest):
            # One of which nothing is known may be there all the same: a hub that was started anew has heard of nobody.
            unknown = known is None or not known.datasets
            if waited > (_SEARCH_SECONDS if not away else _HEARTBEAT_SECONDS if unknown else 0.0):
                return self._directory.search(node_id, request.request_id, request.tags)
            return None
        heard = None if known is None else known.heard
        gone = time.monotonic() - max(began, heard or began)
        if away and gone > (2.0 if isinstance(request, CheckRequest) else self._patience):
            name = node_id if known is None else known.name
            return Failure(
                request_id=request.request_id,
                node_id=node_id,
                code="node",
                stage="wait",
                what=f"node {name} is not at the hub",
                to_do="ask the hospital to start it (polyclinic node start); or set min_nodes to go on without it",
            )
        return None

    def _of_interest(self, request: Request, reply: Reply) -> Reply:
        """The reply; that a node does not trust the researcher is of no interest where it has nothing of what is
        searched."""
        if not (isinstance(request, SearchRequest) and isinstance(reply, Failure) and reply.code == NotTrusted.code):
            return reply
        told = self._directory.search(reply.node_id, request.request_id, request.tags)
        return reply if self._directory.nodes[reply.node_id].heard is None or told.datasets else told

    def _answered_here(self, requests: Mapping[str, Request], sending: Sending) -> Iterator[Reply]:
        """Searches at nodes that are away, because nobody should have to wait until they return; and what a node of
        another version cannot read."""
        for node_id, request in requests.items():
            known = self._directory.nodes[node_id]
            unread = known.unread(node_id, request)
            if isinstance(request, SearchRequest) and (unread or (known.datasets and not known.is_there)):
                del sending.asked[node_id]
                yield self._directory.search(node_id, request.request_id, request.tags)
            elif unread:
                del sending.asked[node_id]
                yield unread

    # ---- what is stored at the hub

    def _note_round(
        self, requests: Mapping[str, Request], sending: Sending, correspondence: Correspondence, loop: LoopThread
    ) -> None:
        """A round that begins means that the one before is written: its replies may go."""
        training = [request for request in requests.values() if isinstance(request, TrainRequest)]
        if not training:
            return
        experiment_id, number = training[0].experiment_id, training[0].round
        # Only a program that begins, or tries a round again, can find replies at the hub.
        key = (threading.get_ident(), experiment_id)
        before, ids = self._written.get(key, (number, []))
        sending.may_be_answered = experiment_id not in self._begun or before == number
        self._begun.add(experiment_id)
        if before < number:
            loop.call(correspondence.tidy, "forget", {"requests": ids})
            ids = []
        self._written[key] = (number, [*ids, *(request.request_id for request in training)])

    @contextmanager
    def in_use(self, node_ids: Iterable[str]) -> Iterator[None]:
        self._require_nodes(node_ids)
        yield
        # Without an error: what this thread ran is written.
        loop, correspondence = self._connected()
        for key in [key for key in self._written if key[0] == threading.get_ident()]:
            loop.call(correspondence.tidy, "forget", {"requests": self._written.pop(key)[1]})

    # ---- control

    def watch(self, experiment_id: str, heard: Heard) -> AbstractContextManager[None]:
        return self._watchers.watch(experiment_id, heard)

    def cancel(self, experiment_id: str) -> None:
        # Only noted here, because this may be a signal handler in the middle of anything.
        for whose, event in list(self._cancelled.values()):
            if whose == experiment_id:
                event.set()

    def close(self) -> None:
        if self._ending is not None:
            self._open = None
            self._ending()

    def _connected(self) -> tuple[LoopThread, Correspondence]:
        with self._opening:
            if self._open is None:
                loop = LoopThread("polyclinic hub")
                correspondence = Correspondence(self._me, self._directory, self._folder)
                try:
                    loop.run(correspondence.open())
                except BaseException:
                    loop.end()
                    raise
                self._open = (loop, correspondence)
                self._ending = weakref.finalize(self, _end, loop, correspondence)
            return self._open

    def _require_nodes(self, node_ids: Iterable[str]) -> None:
        self._connected()
        wanted = list(node_ids)
        if not set(wanted) <= self._directory.nodes.keys():
            self.nodes()
        for node_id in wanted:
            self._directory.require(node_id)

    def _repr_html_(self) -> str:
        seen = self.overview()
        head = "".join(f"<th>{name}</th>" for name in COLUMNS)
        body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in seen.rows)
        remarks = "".join(f"<div>{escape(remark)}</div>" for remark in seen.remarks)
        return f"<table><tr>{head}</tr>{body}</table>{remarks}"

    def __repr__(self) -> str:
        return f"NatsFederation({self._me.hub_name!r} as {self._me.party_id!r})"


async def _give_up(sending: Sending, node_id: str) -> bool:
    """Takes the node out of the sending, in the loop where replies come in; False if it has answered meanwhile."""
    return sending.asked.pop(node_id, None) is not None


def _end(loop: LoopThread, correspondence: Correspondence) -> None:
    with suppress(Exception):
        loop.run(correspondence.close(), 10)
    loop.end()
