"""A journal's rows, and what was found in it, in words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from polyclinic.node.journal_check import Row, Verdict
from polyclinic.node.plan_reading import shown


def sentence(row: Row) -> str:
    """What a row says, on one line."""
    facts = row.facts
    text = _TEXTS[row.kind](facts) if row.kind in _TEXTS else ", ".join(f"{k} {v}" for k, v in facts.items() if v)
    # Ids and names come from researchers: what is not seen, or moves what is seen, is written out.
    return shown(text.replace("\n", " ").replace("\t", " "))


def size(num_bytes: int) -> str:
    """``1.2 MB``."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.1f} {unit}"
    return f"{num_bytes} bytes"


def verdict_lines(verdict: Verdict, *, checked: bool) -> list[str]:
    """What was found, for a reader.

    Args:
        checked: whether signatures were looked at.
    """
    if verdict.row is not None:
        return [f"Row {verdict.row} is broken: {verdict.problem}"]
    lines = [f"All {verdict.rows:,} rows are as they were written, and none is missing."]
    if not verdict.signed:
        lines.append("Not signed: the node has no key, because it has not joined a hub.")
    else:
        lines.append(
            f"Signed up to row {verdict.signed:,}, at {moment(verdict.signed_at)} UTC, by the key {verdict.key}"
        )
        if verdict.rows > verdict.signed + 1:
            lines.append(f"{verdict.rows - verdict.signed - 1:,} rows came since the last signature.")
    if verdict.signatures and not checked:
        lines.append("Signatures were not checked: pip install 'polyclinic[federation]'")
    return lines


def moment(time: str) -> str:
    """A row's time, to the second."""
    return time[:19].replace("T", " ")


def _of_request(facts: dict[str, Any]) -> str:
    what = facts.get("work") or "request"
    where = f", round {facts['round']}" if facts.get("round") is not None else ""
    return f"{what} of {facts['researcher'] or '?'} on {facts['dataset'] or '?'}, {facts['experiment'] or '?'}{where}"


def _of_end(facts: dict[str, Any]) -> str:
    why = f" ({facts['code']} at {facts['stage'] or '?'})" if facts["code"] else ""
    rows = f", {facts['rows']:,} rows" if facts["rows"] is not None else ""
    left = facts["left"]
    sent = f", left: {len(left)} tensors, {size(sum(tensor[3] for tensor in left))}" if left else ""
    metrics = f", metrics {', '.join(facts['metrics'])}" if facts["metrics"] else ""
    return f"{facts['outcome']}{why}: {_of_request(facts)}, {facts['seconds']:.1f} s{rows}{sent}{metrics}"


def _of_decision(facts: dict[str, Any]) -> str:
    whose = f" for {facts['researcher']}" if facts["researcher"] else ""
    data = f" on {', '.join(facts['datasets'])}" if facts["datasets"] else ""
    rounds = f", {facts['rounds']} rounds" if facts.get("rounds") else ""
    until = f", until {facts['until'][:16]}" if facts.get("until") else ""
    name = facts["plan_name"] or f"plan {facts['plan'][:12]}…"
    return f"{facts['approval']} by {facts['by']}: {name}{whose}{data}{rounds}{until}"


def _of_refusal(facts: dict[str, Any]) -> str:
    rules = f": {', '.join(facts['rules'])}" if facts["rules"] else ""
    return f"{facts['code']}{rules}; {_of_request(facts)}"


def _of_trust(facts: dict[str, Any]) -> str:
    who = f" {facts['researcher']}" if facts["researcher"] else ""
    key = f", public key {facts['key']}" if facts["key"] else ""
    return f"{facts['action']}{who}{key}, by {facts['by'] or '?'}"


def _of_dataset(facts: dict[str, Any]) -> str:
    counts = "" if facts["train"] is None else f": {facts['train']:,} train, {facts['test'] or 0:,} test"
    return f"{facts['action']} {facts['dataset']} ({facts['dataset_kind'] or '?'}){counts}, by {facts['by'] or '?'}"


def _of_policy(facts: dict[str, Any]) -> str:
    by = f", by {facts['by']}" if facts["by"] else ""
    return f"{'' if facts['valid'] else 'not readable: '}SHA-256 {facts['digest']}{by}"


_TEXTS: dict[str, Callable[[dict[str, Any]], str]] = {
    "request": _of_request,
    "admitted": lambda facts: f"{_of_request(facts)}, approval {facts['approval'] or 'not asked for'}",
    "refused": _of_refusal,
    "pending": lambda facts: f"{facts['approval']} waits: {facts['plan_name'] or 'a plan'}; {_of_request(facts)}",
    "approved": _of_decision,
    "rejected": _of_decision,
    "revoked": _of_decision,
    "started": lambda facts: f"{_of_request(facts)}, in {facts['sandbox'] or 'a worker'}",
    "ended": _of_end,
    "policy": _of_policy,
    "key": lambda facts: f"the node signs with {facts['key']}" + (f", hub {facts['hub']}" if facts["hub"] else ""),
    "trust": _of_trust,
    "dataset": _of_dataset,
    "signature": lambda facts: f"of rows up to {facts['number']}",
    "gap": lambda facts: f"row {facts['number']}, noted beside the database, is not in it any more",
}
