"""What a node's journal knows of one experiment, put together for a report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Engine

import polyclinic
from polyclinic.errors import ConfigError, nearest
from polyclinic.node.journal_check import Row, Verdict, read
from polyclinic.node.node import Node
from polyclinic.node.tensor_file import Left

_DECISIONS = ("approved", "rejected", "revoked")
UNFINISHED = "not finished"


@dataclass(frozen=True)
class Work:
    """One piece of work on the data, and what came of it.

    Args:
        outcome: as in `journal_facts.Ended`, or `UNFINISHED`.
        row: the number of the row that tells of its end; None: there is none.
    """

    started: str
    work: str
    round: int | None
    dataset: str
    approval: str
    outcome: str = UNFINISHED
    code: str = ""
    stage: str = ""
    seconds: float = 0.0
    rows: int | None = None
    loss: bool = False
    metrics: tuple[str, ...] = ()
    left: tuple[Left, ...] = ()
    row: int | None = None
    digest: str = ""

    @property
    def bytes(self) -> int:
        return sum(tensor.bytes for tensor in self.left)


@dataclass(frozen=True)
class ExperimentReport:
    """All that a report tells.

    Args:
        made: when; UTC.
        first, last: the times of the experiment's first and last row.
        researchers: ids with public keys.
        plans: names with the SHA-256 that approvals bind.
        datasets: id, kind, training and test rows, as they are registered now.
        decisions: rows of the data manager's decisions.
        policies: digests of the policy files that the work was admitted under.
        refusals: how often what was refused: a code, and the rules if there are any.
    """

    node_id: str
    node_name: str
    experiment: str
    version: str
    made: str
    first: str
    last: str
    researchers: tuple[tuple[str, str], ...]
    plans: tuple[tuple[str, str], ...]
    purposes: tuple[str, ...]
    datasets: tuple[tuple[str, str, int | None, int | None], ...]
    decisions: tuple[Row, ...]
    policies: tuple[str, ...]
    sandboxes: tuple[str, ...]
    refusals: tuple[tuple[str, int], ...]
    work: tuple[Work, ...]
    verdict: Verdict

    @classmethod
    def of(cls, node: Node, experiment: str, verdict: Verdict) -> ExperimentReport:
        """Reads the journal.

        Args:
            verdict: of the whole journal.

        Raises:
            ConfigError: the journal knows of no such experiment.
        """
        assert node.engine is not None
        rows = list(rows_of(node.engine, experiment))
        if not rows:
            known = {row.facts.get("experiment", "") for row in read(node.engine, kind="request")} - {""}
            raise ConfigError(
                f"the journal of node {node.name!r} knows of no experiment {experiment!r}",
                to_do=nearest(experiment, known),
            )
        every = [(row, row.facts) for row in rows]
        used = _distinct(facts.get("dataset", "") for _, facts in every)
        registered = {dataset.dataset_id: dataset for dataset in node.registry.datasets()}
        return cls(
            node_id=node.node_id,
            node_name=node.name,
            experiment=experiment,
            version=polyclinic.__version__,
            made=_minute(datetime.now(UTC).isoformat()),
            first=rows[0].time,
            last=rows[-1].time,
            researchers=_pairs(every, "researcher", "key"),
            plans=_pairs(every, "plan_name", "plan"),
            purposes=_distinct(facts.get("purpose", "") for _, facts in every),
            datasets=tuple(
                (name, found.kind.name, found.found.num_train, found.found.num_test)
                if (found := registered.get(name))
                else (name, "not registered any more", None, None)
                for name in used
            ),
            decisions=tuple(row for row in rows if row.kind in _DECISIONS),
            policies=_distinct(facts.get("policy", "") for row, facts in every if row.kind == "admitted"),
            sandboxes=_distinct(facts.get("sandbox", "") for row, facts in every if row.kind == "started"),
            refusals=_refusals(every),
            work=_works(every),
            verdict=verdict,
        )

    @property
    def outcomes(self) -> dict[str, int]:
        """How often each outcome came."""
        return dict(Counter(work.outcome for work in self.work))

    @property
    def tensors(self) -> list[tuple[Work, Left]]:
        """All that left, with the work that it came of."""
        return [(work, tensor) for work in self.work for tensor in work.left]


def rows_of(engine: Engine, experiment: str) -> Iterator[Row]:
    """The journal's rows on an experiment, with the decisions on what it asked for, the first one first."""
    # Looked for as a text before rows are parsed: most are of other experiments.
    text = f'"experiment":{json.dumps(experiment)}'
    found = [row for row in read(engine) if text in row.facts_text and row.facts.get("experiment") == experiment]
    approvals = {row.facts.get("approval", "") for row in found} - {""}
    for kind in _DECISIONS:
        found += [row for row in read(engine, kind=kind) if row.facts["approval"] in approvals]
    yield from sorted(found, key=lambda row: row.number)


def _works(every: list[tuple[Row, dict[str, Any]]]) -> tuple[Work, ...]:
    done: list[Work] = []
    begun: dict[str, Work] = {}
    for row, facts in every:
        if row.kind == "started":
            name = f"{facts['researcher']}/{facts['request']}"
            if name in begun:  # the node was killed in it, and began again
                done.append(begun.pop(name))
            begun[name] = Work(row.time, facts["work"], facts["round"], facts["dataset"], facts["approval"])
        elif row.kind == "ended":
            at_start = begun.pop(f"{facts['researcher']}/{facts['request']}", None)
            done.append(_ended(row, facts, at_start))
    return tuple(sorted([*done, *begun.values()], key=lambda work: work.started))


def _ended(row: Row, facts: dict[str, Any], begun: Work | None) -> Work:
    return Work(
        started=row.time if begun is None else begun.started,
        work=facts["work"] or (begun.work if begun else ""),
        round=facts["round"],
        dataset=facts["dataset"],
        approval=facts["approval"] or (begun.approval if begun else ""),
        outcome=facts["outcome"],
        code=facts["code"],
        stage=facts["stage"],
        seconds=facts["seconds"],
        rows=facts["rows"],
        loss=facts["loss"],
        metrics=tuple(facts["metrics"]),
        left=tuple(Left(name, tuple(shape), dtype, size, sha) for name, shape, dtype, size, sha in facts["left"]),
        row=row.number,
        digest=row.digest,
    )


def _refusals(every: list[tuple[Row, dict[str, Any]]]) -> tuple[tuple[str, int], ...]:
    found: Counter[str] = Counter()
    for row, facts in every:
        if row.kind == "refused":
            rules = f" ({', '.join(facts['rules'])})" if facts["rules"] else ""
            found[facts["code"] + rules] += 1
    return tuple(found.items())


def _pairs(every: list[tuple[Row, dict[str, Any]]], name: str, of: str) -> tuple[tuple[str, str], ...]:
    found = {(facts[name], facts[of]): None for _, facts in every if facts.get(name) and facts.get(of)}
    return tuple(found)


def _distinct(texts: Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for text in texts if text))


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")
