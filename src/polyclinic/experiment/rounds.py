"""One round: everything that happens between two global models, to be read in one sitting.

1. the aggregator is told where the round begins
2. one request goes to each node: the same plan, arguments and tensors, another dataset
3. each update is added as it comes, in the order of node ids, so sums do not depend on who answered first
4. if enough nodes answered, the aggregator gives the next model; else the round has failed, and nothing changed
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

import torch

from polyclinic import tensors
from polyclinic.aggregators.aggregator import Aggregator, State
from polyclinic.compression import expand
from polyclinic.errors import AggregationError, Cancelled, RoundFailed
from polyclinic.experiment.failures import advice, named_together, with_tracebacks
from polyclinic.experiment.observers import Observer, tell
from polyclinic.experiment.participants import Participant
from polyclinic.experiment.record import FailureRow, HistoryRow, RoundRecord
from polyclinic.federation.federation import Federation
from polyclinic.messages.replies import Failure, Reply, TrainReply
from polyclinic.messages.requests import TrainRequest, WorkRequest


@dataclass(frozen=True)
class RoundSettings:
    """How long a round may take, and how many nodes it needs (None: all)."""

    min_nodes: int | None
    deadline_seconds: float | None


def run_round(
    request: TrainRequest,
    participants: Sequence[Participant],
    federation: Federation,
    aggregator: Aggregator,
    settings: RoundSettings,
    observers: Sequence[Observer] = (),
) -> tuple[State, RoundRecord]:
    """Trains ``request.tensors`` for one round at all participants.

    Args:
        request: for no node in particular; each gets it with its own dataset and request id.

    Returns:
        The next global model, and the round's record.

    Raises:
        RoundFailed: fewer than ``min_nodes`` nodes answered.
        Cancelled: the experiment was cancelled; nothing changed.
    """
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    names = {p.node_id: p.name for p in participants}
    deadline = None if settings.deadline_seconds is None else began + settings.deadline_seconds
    tell(observers, "round_started", round=request.round, nodes=list(names.values()))
    own = set(request.local_layers)
    aggregator.begin({name: t for name, t in request.tensors.items() if name not in own})
    rows: list[HistoryRow] = []
    notes: list[str] = []
    failures: list[Failure] = []
    with closing(in_node_order(federation.send(for_each(request, participants), deadline), names)) as replies:
        for reply in replies:
            tell(observers, "node_replied", node=names[reply.node_id], reply=reply)
            if isinstance(reply, TrainReply):
                reply = _added(request, reply, aggregator)
            if isinstance(reply, Failure):
                failures.append(reply)
                if reply.code == Cancelled.code:
                    # The other nodes are told as well; their replies are of no use.
                    raise Cancelled(f"round {request.round} was stopped on request", to_do="run() goes on from there")
                continue
            assert isinstance(reply, TrainReply)
            rows.append(_row(request, reply, names[reply.node_id]))
            notes += [f"{names[reply.node_id]}: {note}" for note in reply.notes]
    needed = len(names) if settings.min_nodes is None else min(settings.min_nodes, len(names))
    if len(rows) < needed or not rows:
        raise _round_failed(request.round, failures, names, needed)
    record = RoundRecord(
        round=request.round,
        started=started,
        seconds=time.monotonic() - began,
        nodes=tuple(row.node for row in rows),
        rows=tuple(rows),
        failures=tuple(FailureRow.of(failure, names[failure.node_id]) for failure in failures),
        notes=tuple(notes),
        score=-_mean_loss(rows),
    )
    new = aggregator.finish()
    # Local layers stay what they were: each node has its own, and one that lost them begins with these again.
    return {name: t if name in own else new[name] for name, t in request.tensors.items()}, record


def for_each(request: WorkRequest, participants: Iterable[Participant]) -> dict[str, WorkRequest]:
    """The request for each node: with its dataset and an id of its own; tensors are shared, not copied."""
    return {
        p.node_id: request.model_copy(
            update={"request_id": request_id(request, p.node_id), "dataset_id": p.dataset.dataset_id}
        )
        for p in participants
    }


def request_id(request: WorkRequest, node_id: str) -> str:
    """For training, the same again whenever the experiment asks this node for the same round: a program that was killed
    finds what was answered meanwhile. Everything else is asked anew each time."""
    if not isinstance(request, TrainRequest):
        return uuid.uuid4().hex
    parts = json.dumps([request.kind, request.experiment_id, request.round, node_id])
    return hashlib.sha256(parts.encode()).hexdigest()[:32]


def in_node_order(replies: Iterator[Reply], node_ids: Iterable[str]) -> Generator[Reply]:
    """The replies by node id, each as soon as all before it are there. Early ones wait; their tensors are files.

    Close it when you stop early: a federation is busy until its replies are closed.
    """
    waiting: dict[str, Reply] = {}
    order = deque(sorted(node_ids))
    try:
        for reply in replies:
            waiting[reply.node_id] = reply
            while order and order[0] in waiting:
                yield waiting.pop(order.popleft())
    finally:
        if isinstance(replies, Generator):
            replies.close()


def _added(request: TrainRequest, reply: TrainReply, aggregator: Aggregator) -> TrainReply | Failure:
    """Gives the node's model, in full if it came compressed, to the aggregator; a failure where it does not fit."""
    how, update = request.training_args.update_compression, reply
    try:
        if how != "none":
            update = reply.model_copy(update={"tensors": expand(how, reply.tensors, request.tensors)})
        aggregator.add(update)
    except AggregationError as err:
        return _unfit(reply, err)
    return reply


def _row(request: TrainRequest, reply: TrainReply, name: str) -> HistoryRow:
    return HistoryRow(
        round=request.round,
        node=name,
        split="train",
        metric="loss",
        value=reply.loss,
        num_samples=reply.num_samples,
        seconds=reply.seconds,
        bytes=moved(request.tensors, reply.tensors),
    )


def moved(down: Mapping[str, torch.Tensor], up: Mapping[str, torch.Tensor]) -> int:
    """Bytes of tensors to a node and back."""
    return tensors.num_bytes(down) + tensors.num_bytes(up)


def _mean_loss(rows: Sequence[HistoryRow]) -> float:
    return sum(row.value * row.num_samples for row in rows) / sum(row.num_samples for row in rows)


def _unfit(reply: TrainReply, err: AggregationError) -> Failure:
    return Failure(
        request_id=reply.request_id,
        node_id=reply.node_id,
        code=err.code,
        stage="aggregate",
        what=err.what,
        to_do=err.to_do,
    )


def _round_failed(round_index: int, failures: Sequence[Failure], names: Mapping[str, str], needed: int) -> RoundFailed:
    quorum = "" if needed < len(names) else "; or set min_nodes to go on without a node that fails"
    error = RoundFailed(
        f"round {round_index}: {len(names) - len(failures)} of {len(names)} nodes answered, {needed} are needed"
        + named_together(failures, names),
        to_do=(advice(failures) or "look at the nodes named above") + quorum + ". run() goes on from the last round",
        codes={failure.code for failure in failures},
    )
    return with_tracebacks(error, failures, names)
