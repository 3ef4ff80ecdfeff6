"""What a node is at, for people to watch. No result ever depends on it: states may be lost, late or missing."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from polyclinic.messages.requests import CheckRequest, EvaluateRequest, Request, TrainRequest
from polyclinic.node.stop import Progress

WAITING, RECEIVING, TRAINING, SENDING, DONE, OFFLINE = (
    "waiting", "receiving", "training", "sending", "done", "offline",
)  # fmt: skip
_WORK: dict[type[Request], str] = {TrainRequest: TRAINING, EvaluateRequest: "evaluating", CheckRequest: "checking"}
STATES = frozenset({WAITING, RECEIVING, SENDING, DONE, OFFLINE, "working", *_WORK.values()})


@dataclass(frozen=True)
class NodeState:
    """What a node is at with one request of an experiment.

    Args:
        state: one of `STATES`.
        num_before: of a request that waits: how many are done before it.
        before: whose those are, in their order; of very many the first. "" stands for one's own.
        progress: of a training.
        since: of a node that is offline: when it was last heard of, in seconds since 1970; 0: not known.
    """

    node_id: str
    state: str
    num_before: int = 0
    before: tuple[str, ...] = ()
    progress: Progress | None = None
    since: float = 0.0

    def describe(self) -> str:
        """A few words for a reader."""
        if self.state == OFFLINE and self.since:
            return f"offline since {clock(self.since)}"
        if self.state == WAITING and self.num_before:
            who = ", ".join(who or "you" for who in self.before[:3]) + (", …" if self.num_before > 3 else "")
            return f"waiting, {self.num_before} before it ({who})"
        if self.progress:
            of = f" of {self.progress.num_batches}" if self.progress.num_batches else ""
            # A node may keep it to itself.
            loss = "" if math.isnan(self.progress.loss) else f", loss {self.progress.loss:.3g}"
            return f"{self.state}, batch {self.progress.batch}{of}{loss}"
        return self.state


def state_of_work(request: Request) -> str:
    """What a node is at that does this."""
    return _WORK.get(type(request), "working")


def clock(when: float) -> str:
    """The local time of day, with the day if it is another one than today; ``when`` in seconds since 1970."""
    then, now = time.localtime(when), time.localtime()
    return time.strftime("%H:%M" if then[:3] == now[:3] else "%Y-%m-%d %H:%M", then)


Heard = Callable[[NodeState], None]


class Watchers:
    """Who wants to see what nodes are at, by experiment."""

    def __init__(self) -> None:
        self._heard: dict[str, list[Heard]] = {}

    @contextmanager
    def watch(self, experiment_id: str, heard: Heard) -> Iterator[None]:
        """See `Federation.watch`."""
        watching = self._heard.setdefault(experiment_id, [])
        watching.append(heard)
        try:
            yield
        finally:
            watching.remove(heard)
            if not watching:
                self._heard.pop(experiment_id, None)

    def of(self, request: Request) -> bool:
        """Whether anybody watches the experiment that this request belongs to."""
        return getattr(request, "experiment_id", "") in self._heard

    def tell(self, request: Request, state: NodeState) -> None:
        """Tells those who watch the experiment."""
        for heard in list(self._heard.get(getattr(request, "experiment_id", ""), ())):
            heard(state)
