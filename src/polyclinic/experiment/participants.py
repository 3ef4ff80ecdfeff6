"""Which nodes take part in an experiment: those that hold exactly one dataset with all of its tags."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from polyclinic.aggregators.aggregator import Aggregator
from polyclinic.errors import ConfigError, DatasetChanged, FederationError, NoMatchingNodes, NotTrusted, nearest
from polyclinic.experiment.failures import advice
from polyclinic.experiment.observers import Observer, tell
from polyclinic.federation.federation import Federation
from polyclinic.federation.node_state import NodeState
from polyclinic.messages.replies import DatasetInfo, Failure, SearchReply
from polyclinic.messages.requests import SearchRequest


@dataclass(frozen=True)
class Participant:
    """A node and the dataset it takes part with."""

    node_id: str
    name: str
    dataset: DatasetInfo


def find_participants(
    federation: Federation, tags: Sequence[str], only: Sequence[str] | None, min_nodes: int | None
) -> list[Participant]:
    """The participants, by node id. Nodes that do not trust the researcher are left out, with a warning.

    Args:
        federation: where to look.
        tags: all of them must be on the dataset.
        only: node ids or names; None: every node that has the data.
        min_nodes: with fewer left, a dataset that vanished or changed is an error, else a warning.

    Raises:
        NoMatchingNodes: no node has the tags, fewer than ``min_nodes`` have them, or a node has two datasets with them.
        NotTrusted: no node is left.
        DatasetChanged: a dataset changed or vanished since it was registered.
        FederationError: ``only`` names a node that is not there.
    """
    answers, refusals = search(federation, tags, _chosen(federation, only))
    found, problems = [], []
    for answer in answers:
        if len(answer.datasets) > 1:
            names = ", ".join(repr(d.name) for d in answer.datasets)
            raise NoMatchingNodes(
                f"node {answer.node_name!r} has {len(answer.datasets)} datasets with the tags {_listed(tags)}: {names}",
                to_do="give a tag that only one of them has, for example by adding one at the node",
            )
        for dataset in answer.datasets:
            if dataset.problem:
                problems.append(f"{answer.node_name}: {dataset.problem}")
            else:
                found.append(Participant(answer.node_id, answer.node_name, dataset))
    if problems:
        message = f"data are not as they were registered: {'; '.join(problems)}"
        if min_nodes is None or len(found) < min_nodes:
            raise DatasetChanged(message, to_do="put the data back, or register the dataset again at that node")
        warnings.warn(message, stacklevel=4)
    if not found:
        raise _refused(tags, refusals) if refusals else _nothing_found(federation, tags, only)
    if refusals:
        warnings.warn(f"goes on without these: {_told(refusals)}\n{advice(refusals)}", stacklevel=4)
    if min_nodes is not None and len(found) < min_nodes:
        raise NoMatchingNodes(
            f"{len(found)} nodes have data with the tags {_listed(tags)}, min_nodes asks for {min_nodes}: "
            + ", ".join(participant.name for participant in found),
            to_do="lower min_nodes, or see which data the other nodes have: polyclinic federation show",
        )
    found.sort(key=lambda participant: participant.node_id)
    _require_same_columns(found)
    return found


@contextmanager
def held(
    federation: Federation, participants: Sequence[Participant], experiment_id: str, observers: Sequence[Observer]
) -> Iterator[None]:
    """Keeps other programs out of the participants' folders meanwhile, and tells observers what the nodes are at."""
    names = {p.node_id: p.name for p in participants}

    def heard(state: NodeState) -> None:
        tell(observers, "node_state", node=names.get(state.node_id, state.node_id), state=state)

    with federation.in_use(names), federation.watch(experiment_id, heard):
        yield


def chosen_by(aggregator: Aggregator, round_index: int, participants: Sequence[Participant]) -> list[Participant]:
    """Those that the aggregator chooses for this round, by node id.

    Raises:
        ConfigError: it chose none, or a node that does not take part.
    """
    there = {p.node_id: p for p in participants}
    chosen = set(aggregator.choose(round_index, list(there)))
    if not chosen or not chosen <= there.keys():
        odd = ", ".join(sorted(chosen - there.keys())) or "none"
        raise ConfigError(
            f"{type(aggregator).__name__}.choose() chose {odd} for round {round_index}",
            to_do=f"return one or more of the node ids that it is given: {', '.join(there)}",
        )
    return [p for node_id, p in there.items() if node_id in chosen]


def search(
    federation: Federation, tags: Sequence[str], node_ids: Sequence[str]
) -> tuple[list[SearchReply], list[Failure]]:
    """What these nodes hold with all of these tags, and the nodes that do not trust the researcher; by node id.

    Raises:
        FederationError: if a node could not answer.
    """
    requests = {n: SearchRequest(request_id=uuid.uuid4().hex, tags=tuple(tags)) for n in node_ids}
    answers: list[SearchReply] = []
    refusals: list[Failure] = []
    for reply in sorted(federation.send(requests), key=lambda reply: reply.node_id):
        if isinstance(reply, SearchReply):
            answers.append(reply)
            continue
        assert isinstance(reply, Failure)
        if reply.code != NotTrusted.code:
            raise FederationError(f"node {reply.node_id} could not answer: {reply.what}", to_do=reply.to_do)
        refusals.append(reply)
    return answers, refusals


def _require_same_columns(participants: Sequence[Participant]) -> None:
    """The same columns in another order would train a wrong model, and nobody would notice."""
    with_names = [p for p in participants if p.dataset.features]
    for other in with_names[1:]:
        ours, theirs = with_names[0].dataset.features, other.dataset.features
        if ours != theirs:
            number = next((k for k, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), None)
            number = min(len(ours), len(theirs)) if number is None else number
            raise FederationError(
                f"nodes {with_names[0].name!r} and {other.name!r} have different columns, at number {number + 1}: "
                f"{_at(ours, number)} and {_at(theirs, number)}",
                to_do="register the tables with the same features in the same order (--features a,b,c)",
            )


def _at(names: Sequence[str], number: int) -> str:
    return repr(names[number]) if number < len(names) else "none"


def _chosen(federation: Federation, only: Sequence[str] | None) -> list[str]:
    nodes = federation.nodes()
    if only is None:
        return [node.node_id for node in nodes]
    ids = {node.name: node.node_id for node in nodes} | {node.node_id: node.node_id for node in nodes}
    for name in only:
        if name not in ids:
            raise FederationError(f"there is no node {name!r}", to_do=nearest(name, ids))
    return sorted({ids[name] for name in only})


def _refused(tags: Sequence[str], refusals: Sequence[Failure]) -> NotTrusted:
    what = f"no node with the tags {_listed(tags)} works for you" if tags else "no node with data works for you"
    return NotTrusted(f"{what}: {_told(refusals)}", to_do=advice(refusals))


def _told(refusals: Sequence[Failure]) -> str:
    return "; ".join(refusal.what for refusal in refusals)


def _nothing_found(
    federation: Federation, tags: Sequence[str], only: Sequence[str] | None
) -> NoMatchingNodes | NotTrusted:
    answers, refusals = search(federation, (), _chosen(federation, only))
    there = sorted({tag for answer in answers for dataset in answer.datasets for tag in dataset.tags})
    if not there and refusals:
        return _refused((), refusals)
    if not there:
        return NoMatchingNodes(
            f"none of {len(answers)} nodes has a dataset", to_do="add one: polyclinic node add-dataset --help"
        )
    import difflib

    def likeness(tag: str) -> float:
        return max((difflib.SequenceMatcher(None, wanted, tag).ratio() for wanted in tags), default=0.0)

    ordered = sorted(there, key=likeness, reverse=True)
    return NoMatchingNodes(
        f"no node has a dataset with the tags {_listed(tags)}", to_do=f"tags there are: {', '.join(ordered)}"
    )


def _listed(tags: Sequence[str]) -> str:
    return ", ".join(map(repr, tags)) or "(none)"
