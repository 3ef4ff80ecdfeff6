"""Can every node run this? Asked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from polyclinic.experiment.participants import Participant
from polyclinic.experiment.rounds import for_each
from polyclinic.experiment.tables import render_table
from polyclinic.federation.federation import Federation
from polyclinic.messages.replies import CheckReply, Failure, Reply
from polyclinic.messages.requests import CheckRequest


@dataclass(frozen=True)
class CheckReport:
    """What each node answered: rows of (node, what was checked, ok, detail)."""

    rows: tuple[tuple[str, str, bool, str], ...]

    @property
    def ok(self) -> bool:
        """Whether every node can run the experiment."""
        return all(ok for _, _, ok, _ in self.rows)

    def __bool__(self) -> bool:
        return self.ok

    def __str__(self) -> str:
        cells = [[node, name, "yes" if ok else "NO", detail] for node, name, ok, detail in self.rows]
        return render_table(["node", "check", "ok", "detail"], cells, title="Can every node run this?")

    def _repr_html_(self) -> str:
        body = "".join(
            f"<tr><td>{escape(node)}</td><td>{escape(name)}</td><td>{'✓' if ok else '✗'}</td>"
            f"<td>{escape(detail)}</td></tr>"
            for node, name, ok, detail in self.rows
        )
        return f"<table><tr><th>node</th><th>check</th><th>ok</th><th>detail</th></tr>{body}</table>"


def check_nodes(request: CheckRequest, participants: Sequence[Participant], federation: Federation) -> CheckReport:
    """Asks all participants to build the plan and to take one step on one batch; nothing of it is kept."""
    names = {p.node_id: p.name for p in participants}
    replies: dict[str, Reply] = {reply.node_id: reply for reply in federation.send(for_each(request, participants))}
    rows = []
    for node_id, reply in sorted(replies.items()):
        if isinstance(reply, Failure):
            rows.append((names[node_id], reply.stage, False, f"{reply.what}. {reply.to_do}"))
        elif isinstance(reply, CheckReply):
            rows += [(names[node_id], item.name, item.ok, item.detail) for item in reply.items]
    return CheckReport(tuple(rows))
