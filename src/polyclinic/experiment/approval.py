"""Which nodes may train: where a hospital's data manager decides, an experiment waits for the word."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from polyclinic.errors import Cancelled, NotApproved, PolicyRefused, RoundFailed
from polyclinic.experiment.failures import advice, named_together
from polyclinic.experiment.observers import Observer, tell
from polyclinic.experiment.participants import Participant
from polyclinic.experiment.rounds import for_each
from polyclinic.federation.federation import Federation
from polyclinic.messages.replies import ApprovalReply, Failure, Reply
from polyclinic.messages.requests import ApprovalRequest

T = TypeVar("T")

# A word may come within seconds, where both sit together, or after days.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 10.0
_LOOK_SECONDS = 0.1


class Permission:
    """The words of the data managers, for one run. Where the researcher is the data manager, nobody is asked.

    Args:
        request: for no node in particular.
        min_nodes: nodes that are enough to go on; None: all.
        is_cancelled: looked at several times a second while it waits.
    """

    def __init__(
        self,
        request: ApprovalRequest,
        federation: Federation,
        min_nodes: int | None,
        observers: Sequence[Observer],
        is_cancelled: Callable[[], bool],
    ) -> None:
        self._request, self._federation, self._min_nodes = request, federation, min_nodes
        self._observers, self._is_cancelled = observers, is_cancelled
        self._answers: dict[str, Reply] = {}
        self._told: set[tuple[str, str]] = set()
        self._in_vain = False  # a round was refused just now, and nobody was waited for since

    def round(self, participants: Sequence[Participant], do: Callable[[list[Participant]], T]) -> T:
        """Does a round at those that may train. One that failed because an approval had ended is tried again as soon
        as there is a new one.

        Raises:
            RoundFailed: too few nodes answered.
            NotApproved, PolicyRefused, Cancelled: see `ready`.
        """
        self._in_vain = False
        while True:
            ready = self.ready(participants)
            try:
                return do(ready)
            except RoundFailed as err:
                if NotApproved.code not in err.codes or self._in_vain:
                    raise
            self._in_vain = True
            self._answers.clear()

    def ready(self, participants: Sequence[Participant]) -> list[Participant]:
        """Those that may train, as soon as they are enough; waits for data managers until then.

        Raises:
            NotApproved, PolicyRefused: they will not be enough, because hospitals said no.
            Cancelled: on request.
        """
        if not self._federation.asks_approval:
            return list(participants)
        needed = len(participants) if self._min_nodes is None else min(self._min_nodes, len(participants))
        pause = _FIRST_PAUSE
        while True:
            self._ask([p for p in participants if not self._may_train(p.node_id)])
            ready = [p for p in participants if self._may_train(p.node_id)]
            waiting = [p for p in participants if self._waits(p.node_id)]
            self._tell(waiting)
            if len(ready) >= needed:
                return ready
            if len(ready) + len(waiting) < needed:
                raise self._refused(participants)
            self._in_vain = False
            self._pause(pause)
            pause = min(pause * 1.1, _LONGEST_PAUSE)

    def _ask(self, participants: Sequence[Participant]) -> None:
        if participants:
            requests = for_each(self._request, participants)
            self._answers |= {reply.node_id: reply for reply in self._federation.send(requests)}

    def _may_train(self, node_id: str) -> bool:
        """Also where a node is away, or knows no approvals: then its answer to the round's request counts."""
        answer = self._answers.get(node_id)
        if isinstance(answer, ApprovalReply):
            return answer.state == "approved"
        return isinstance(answer, Failure) and answer.code not in (PolicyRefused.code, NotApproved.code)

    def _waits(self, node_id: str) -> bool:
        answer = self._answers.get(node_id)
        return isinstance(answer, ApprovalReply) and answer.state == "pending"

    def _tell(self, waiting: Sequence[Participant]) -> None:
        for participant in waiting:
            answer = self._answers[participant.node_id]
            assert isinstance(answer, ApprovalReply)
            if (participant.node_id, answer.asked) not in self._told:
                self._told.add((participant.node_id, answer.asked))
                facts = {"node": participant.name, "what": answer.what, "to_do": answer.to_do}
                tell(self._observers, "approval_awaited", **facts)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._is_cancelled():
                raise Cancelled("stopped on request, while it waited for approval", to_do="run() goes on from there")
            time.sleep(_LOOK_SECONDS)

    def _refused(self, participants: Sequence[Participant]) -> NotApproved | PolicyRefused:
        said_no = [failure for p in participants if (failure := _refusal(self._answers.get(p.node_id)))]
        names = {p.node_id: p.name for p in participants}
        by_policy = all(failure.code == PolicyRefused.code for failure in said_no)
        error = PolicyRefused if by_policy else NotApproved
        return error(f"the plan may not be trained{named_together(said_no, names)}", to_do=advice(said_no))


def _refusal(answer: Reply | None) -> Failure | None:
    """A no, as a failure."""
    if isinstance(answer, Failure):
        return answer if answer.code in (PolicyRefused.code, NotApproved.code) else None
    if not isinstance(answer, ApprovalReply) or answer.state not in ("rejected", "revoked"):
        return None
    return Failure(
        request_id=answer.request_id,
        node_id=answer.node_id,
        code=NotApproved.code,
        stage="approval",
        what=answer.what,
        to_do=answer.to_do,
    )
