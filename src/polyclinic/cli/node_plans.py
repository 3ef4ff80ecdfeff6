"""``polyclinic node plans``, ``approve``, ``reject`` and ``revoke``: a data manager decides what may run."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyclinic.cli.at import At, NodeId, open_node
from polyclinic.cli.default_command import ListsByDefault

if TYPE_CHECKING:
    from polyclinic.node.approvals import Approvals
    from polyclinic.node.asked import Asked
    from polyclinic.node.node import Node

PlanId = Annotated[str, typer.Argument(metavar="ID", help="The request's id, or its beginning: see `plans`.")]
Until = Annotated[
    datetime | None,
    typer.Option(formats=["%Y-%m-%d"], metavar="YYYY-MM-DD", help="The last day. Default: in 90 days."),
]


app = typer.Typer(
    cls=ListsByDefault,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="What researchers ask to run at a node, and what was said to it.",
)


@app.command("list")
def list_plans(
    node: NodeId,
    pending: Annotated[bool, typer.Option("--pending", help="Only what waits for a word.")] = False,
    at: At = None,
) -> None:
    """List what was asked for. The word `list` may be left out.

    Example: `polyclinic node plans guys --pending`
    """
    from rich.console import Console
    from rich.table import Table

    from polyclinic.node.plan_reading import shown

    _, approvals = _opened(node, at)
    found = approvals.all("pending" if pending else None)
    if not found:
        typer.echo("Nothing waits." if pending else "Nobody has asked for anything.")
        return
    table = Table("id", "state", "plan", "researcher", "dataset", "rounds", "since", "until", box=None)
    for asked in found:
        rounds = str(asked.asked_rounds or "?") if asked.rounds is None else f"{asked.used} of {asked.rounds}"
        table.add_row(
            asked.id,
            asked.standing,
            f"{shown(asked.class_name)} {asked.plan_sha256[:8]}",
            "everyone trusted" if asked.installed else shown(asked.researcher),
            ", ".join(map(shown, asked.datasets)),
            rounds,
            _when(asked.since),
            "" if asked.until is None else _when(asked.until),
        )
    Console().print(table, markup=False)


@app.command()
def show(node: NodeId, plan: PlanId, at: At = None) -> None:
    """Show what is asked for, and the text of the plan, as it would run.

    Example: `polyclinic node plans show guys 3f2a`
    """
    from polyclinic.cli.plan_page import print_plan

    opened, approvals = _opened(node, at)
    print_plan(opened, approvals, approvals.find(plan))


def approve(
    node: NodeId,
    plan: Annotated[str, typer.Argument(metavar="ID", help="The request's id, or its beginning: see `plans`.")] = "",
    installed: Annotated[
        str,
        typer.Option(metavar="DATASET", help="Instead of an ID: the baseline of a dataset that comes with Polyclinic."),
    ] = "",
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="The id of a dataset that it may run on; may be repeated. Default: the one asked for."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="Rounds of training in all. Default: as many as asked for.")
    ] = None,
    until: Until = None,
    any_arguments: Annotated[
        bool,
        typer.Option("--any-arguments", help="Also with other model_args, training_args and local rules."),
    ] = False,
    note: Annotated[str, typer.Option(help="For your own records.")] = "",
    at: At = None,
) -> None:
    """Say yes: exactly this text may run, for this researcher, on this dataset, with these arguments or less.

    Waiting experiments go on by themselves. What is approved already can be approved anew with other bounds.

    Examples:

    `polyclinic node approve guys 3f2a --rounds 20 --until 2027-03-31`

    `polyclinic node approve guys --installed fed_heart_disease`
    """
    from polyclinic.errors import ConfigError, reject_unknown

    opened, approvals = _opened(node, at)
    reject_unknown(dataset or (), [d.dataset_id for d in opened.registry.datasets()], kind="dataset")
    bounds: dict[str, Any] = {"rounds": rounds, "until": _end_of(until), "note": note}
    if bool(plan) == bool(installed):
        raise ConfigError("approve needs an ID or --installed, and not both", to_do="see polyclinic node plans NODE")
    if installed:
        from polyclinic.node.installed_plans import approve_baseline

        asked = approve_baseline(opened, installed, dataset or (), **bounds)
    else:
        found = approvals.find(plan)
        asked = approvals.approve(found, datasets=dataset or (), any_arguments=any_arguments, **bounds)
    _journal(opened, "approved", asked)
    for line in _bounds_told(asked):
        typer.echo(line)
    typer.echo(f"To take it back: polyclinic node revoke {node} {asked.id}")


def reject(
    node: NodeId,
    plan: PlanId,
    reason: Annotated[str, typer.Option(help="What the researcher is told.")],
    at: At = None,
) -> None:
    """Say no to what waits. The researcher's experiment ends with your reason.

    Example: `polyclinic node reject guys 3f2a --reason "Please without the patients' ages."`
    """
    opened, approvals = _opened(node, at)
    asked = approvals.reject(approvals.find(plan), reason)
    _journal(opened, "rejected", asked)
    typer.echo(f"Rejected: {asked.id}.")


def revoke(
    node: NodeId,
    plan: PlanId,
    reason: Annotated[str, typer.Option(help="What the researcher is told.")] = "",
    at: At = None,
) -> None:
    """Take an approval back. What runs under it is stopped, and nothing of it leaves.

    Example: `polyclinic node revoke guys 3f2a --reason "The study has ended."`
    """
    opened, approvals = _opened(node, at)
    asked = approvals.revoke(approvals.find(plan), reason)
    _journal(opened, "revoked", asked)
    typer.echo(f"Revoked: {asked.id}.")
    others = [o.id for o in approvals.all("approved") if _may_cover(o, asked)]
    if others:
        typer.echo(
            f"The same plan is approved as well by {', '.join(others)}: look whether those are to be revoked too."
        )


def _opened(node: str, at: Path | None) -> tuple[Node, Approvals]:
    from polyclinic.node.approvals import Approvals

    opened: Node = open_node(node, at)
    assert opened.engine is not None
    return opened, Approvals(opened.engine)


def _bounds_told(asked: Asked) -> list[str]:
    from polyclinic.node.plan_reading import shown

    who = "every trusted researcher" if asked.installed else f"researcher {shown(asked.researcher)} (key {asked.key})"
    arguments = "these arguments, or fewer epochs or updates"
    if asked.any_arguments or asked.installed:
        arguments = "any training_args" if asked.installed else "any arguments"
    until = "" if asked.until is None else f", until {_when(asked.until)}"
    return [
        f"Approved: plan {shown(asked.class_name)}, SHA-256 {asked.plan_sha256}",
        f"for {who}, on {', '.join(map(shown, asked.datasets))}",
        f"with {arguments}, {asked.rounds} rounds in all ({asked.used} used){until}.",
    ]


def _may_cover(other: Asked, revoked: Asked) -> bool:
    same_researcher = other.installed or (other.researcher, other.key) == (revoked.researcher, revoked.key)
    shares_data = bool(set(other.datasets) & set(revoked.datasets))
    return bool(same_researcher and shares_data and other.plan_sha256 == revoked.plan_sha256)


def _journal(node: Node, kind: str, asked: Asked) -> None:
    from polyclinic.federation.over_nats.node_journal import journal_of
    from polyclinic.node.plan_reading import shown

    bounds: dict[str, Any] = {}
    if kind == "approved" and asked.until is not None:
        bounds = {
            "rounds": asked.rounds,
            "until": f"{asked.until.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "any_arguments": asked.any_arguments,
            "installed": asked.installed,
        }
    journal = journal_of(node)
    journal.write(
        kind,
        approval=asked.id,
        by=getpass.getuser(),
        plan=asked.plan_sha256,
        plan_name=shown(asked.class_name)[:200],
        researcher="" if asked.installed else asked.researcher,
        key="" if asked.installed else asked.key,
        datasets=list(asked.datasets),
        **bounds,
    )
    journal.flush()


def _end_of(day: datetime | None) -> datetime | None:
    """The end of a day here."""
    return None if day is None else (day + timedelta(days=1)).astimezone()


def _when(moment: datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M}"
