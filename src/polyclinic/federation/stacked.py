"""Nodes in this process whose models are trained together, for simulations of many small ones."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from polyclinic.errors import Cancelled, DeadlinePassed
from polyclinic.federation.in_process import InProcessFederation
from polyclinic.messages.replies import Reply, TrainReply
from polyclinic.messages.requests import Request, TrainRequest
from polyclinic.node.node import Node
from polyclinic.node.stop import Stop

if TYPE_CHECKING:
    from polyclinic.node.stacked_step import StackedStep
    from polyclinic.node.stacked_training import StackedNode
    from polyclinic.plans.workbench import Workbench

log = logging.getLogger("polyclinic.federation")

# Values of all models and batches of one stack. More do not fit in a core's cache, and then a stack gains nothing.
_VALUES = 1 << 20
# Nodes of one stack. More gain nothing, and take memory.
_NODES = 2048
# Sample numbers of a round that are drawn before a stack begins: 128 MB of them.
_SAMPLES = 1 << 24
# A stack of fewer nodes than this gains nothing either, unless there are no more.
_FEWEST = 8
# Nodes whose first batches are tried.
_TRIED = 3


class StackedFederation(InProcessFederation):
    """Nodes that are trained together: one step of one stack of models, instead of a step of each.

    It is for plans with a small model whose step is a function of parameters and batch alone. Before a plan's first
    training it is tried whether a step gives the same both ways, within 1e-6. Where it does not, or where the plan asks
    for what a stack cannot do, the nodes are trained one after the other, as `InProcessFederation` does; `way` says
    which it was, and so does a note in the round's record. Searching, checking and evaluation are always done that way.

    Results equal those of `InProcessFederation` up to rounding, not bit by bit. A plan that draws random numbers in its
    steps, as dropout does, gets others than there, and each node its own.

    Args:
        nodes: ids must differ.

    Raises:
        FederationError: if two nodes have the same id.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        super().__init__(nodes)
        self._way = ""
        self._tried: WeakKeyDictionary[Workbench, _Tried] = WeakKeyDictionary()

    @property
    def way(self) -> str:
        """How nodes were last trained: ``"stacked: …"``, or ``"plain: …"`` and why; empty before the first training."""
        return self._way

    def _answering(self, requests: Mapping[str, Request], stop: Stop) -> Callable[[str], Reply]:
        plain = super()._answering(requests, stop)
        groups = _same_work(requests)
        ready: dict[str, TrainReply] = {}
        # Why nodes go the plain way, by id; under "" what the next one that is trained shall say.
        notes: dict[str, str] = {}

        def answer(node_id: str) -> Reply:
            group = groups.get(node_id)
            if group and group[0].node_id == node_id:
                ready.update(self._next_stack(group, notes, stop))
            if stacked := ready.pop(node_id, None):
                return stacked
            reply = plain(node_id)
            if isinstance(reply, TrainReply) and (note := notes.pop(node_id, "") or notes.pop("", "")):
                reply = reply.model_copy(update={"notes": (*reply.notes, note)})
            return reply

        return answer

    def _next_stack(self, group: deque[_Asked], notes: dict[str, str], stop: Stop) -> dict[str, TrainReply]:
        """Takes the next nodes off the group and trains them in a stack. Those without a reply go the plain way."""
        from polyclinic.node.stacked_optimizer import Declined

        try:
            replies = self._stack(group, notes, stop)
        except (Cancelled, DeadlinePassed):
            group.clear()  # the plain way says so
            return {}
        except (Exception, SystemExit) as err:
            # Whatever it is, the plain way finds out at which node.
            group.clear()
            why = str(err) if isinstance(err, Declined) else f"the stack failed with {type(err).__name__}: {err}"
            notes[""] = f"plain: {why}"
            if self._way != notes[""]:
                log.warning("nodes are trained one by one: %s", why)
            self._way = notes[""]
            return {}
        self._way = f"stacked: {len(replies)} nodes together"
        for node_id in list(replies)[:1]:
            replies[node_id] = replies[node_id].model_copy(update={"notes": (self._way,)})
        return replies

    def _stack(self, group: deque[_Asked], notes: dict[str, str], stop: Stop) -> dict[str, TrainReply]:
        from polyclinic.node.stacked_check import check_request
        from polyclinic.node.stacked_training import train_stacked

        request = group[0].request
        workbench = self._nodes[group[0].node_id].workbench(request)
        check_request(request, workbench)
        asked, nodes = self._take(group, notes, sum(p.numel() for p in workbench.plan.parameters()))
        step = self._step(workbench, nodes, request)
        replies = {}
        for one, result in zip(asked, train_stacked(workbench, step, nodes, request, stop), strict=True):
            if result is None:
                notes[one.node_id] = "plain: its loss or its model was not finite in the stack"
                continue
            replies[one.node_id] = TrainReply(
                request_id=one.request.request_id,
                node_id=one.node_id,
                num_samples=result.num_samples,
                num_updates=result.num_updates,
                loss=result.loss,
                seconds=result.seconds,
                tensors=result.state,
            )
        return replies

    def _take(
        self, group: deque[_Asked], notes: dict[str, str], num_values: int
    ) -> tuple[list[_Asked], list[StackedNode]]:
        """As many of the group's next nodes as fit in a stack; leaves out those that cannot be in it."""
        from polyclinic.node.stacked_optimizer import Declined
        from polyclinic.node.stacked_training import not_finite, stacked_node

        asked: list[_Asked] = []
        nodes: list[StackedNode] = []
        most = 1
        # A node that would be left alone comes along.
        while group and (len(nodes) < most or len(group) == 1):
            one = group.popleft()
            try:
                node = stacked_node(self._nodes[one.node_id], one.request, nodes[0] if nodes else None)
            except Declined as err:
                notes[one.node_id] = f"plain: {err}"
                continue
            asked.append(one)
            nodes.append(node)
            if len(nodes) == 1:
                args = one.request.training_args
                most = _VALUES // (num_values + node.batch_values(args))
                if most < min(_FEWEST, len(group) + 1):
                    raise Declined(f"the model is too large: {num_values:,} parameters")
                most = max(min(most, _NODES, _SAMPLES // node.round_samples(args)), 2)
        for number in sorted(not_finite(nodes), reverse=True):
            notes[asked.pop(number).node_id] = "plain: some of its values are not finite"
            del nodes[number]
        if len(nodes) < 2:
            raise Declined(f"{len(nodes)} of the nodes can be in a stack, which takes two")
        return asked, nodes

    def _step(self, workbench: Workbench, nodes: Sequence[StackedNode], request: TrainRequest) -> StackedStep:
        """The plan's step for stacks, after it was tried for this experiment."""
        from polyclinic.node.stacked_check import try_one_step
        from polyclinic.node.stacked_optimizer import Declined

        tried = self._tried.setdefault(workbench, _Tried())
        key = (request.experiment_id, str(request.local_rule), request.training_args.clip_norm, nodes[0].kind)
        if key not in tried.verdicts:
            few = nodes[:_TRIED]
            size = min(request.training_args.batch_size, *(node.num_samples for node in few))
            try:
                tried.step = try_one_step(
                    request, workbench, [tuple(t[:size] for t in node.rows) for node in few], tried.step
                )
                tried.verdicts[key] = ""
            except Declined as err:
                tried.verdicts[key] = str(err)
        if tried.verdicts[key] or tried.step is None:
            raise Declined(tried.verdicts[key])
        return tried.step


@dataclass(frozen=True)
class _Asked:
    node_id: str
    request: TrainRequest


@dataclass
class _Tried:
    """What is known of a plan: its step, and of each experiment why it cannot be stacked; empty: it can."""

    step: StackedStep | None = None
    verdicts: dict[tuple[object, ...], str] = field(default_factory=dict)


def _same_work(requests: Mapping[str, Request]) -> dict[str, deque[_Asked]]:
    """By node id, the trainings that differ in node and dataset only, by node id."""
    groups: list[deque[_Asked]] = []
    found: dict[str, deque[_Asked]] = {}
    for node_id in sorted(requests):
        request = requests[node_id]
        if not isinstance(request, TrainRequest):
            continue
        group = next((g for g in groups if _is_same(g[0].request, request)), None)
        if group is None:
            groups.append(group := deque())
        group.append(_Asked(node_id, request))
        found[node_id] = group
    return found


def _is_same(one: TrainRequest, other: TrainRequest) -> bool:
    # A message makes a mapping of its own of what it is given; the tensors in it are the same.
    ours, theirs = one.tensors, other.tensors
    if ours is not theirs and (ours.keys() != theirs.keys() or any(t is not theirs[n] for n, t in ours.items())):
        return False
    return all(a is b or a == b for a, b in ((getattr(one, name), getattr(other, name)) for name in _SAME))


# What the requests of one stack have in common, besides the tensors.
_SAME = tuple(TrainRequest.model_fields.keys() - {"request_id", "dataset_id", "tensors", "kind"})
