"""``polyclinic node journal`` and ``polyclinic node report``: what was asked of a node, decided and done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from polyclinic.cli.at import At, NodeId, open_node
from polyclinic.cli.default_command import ShowsByDefault

if TYPE_CHECKING:
    from polyclinic.node.journal_check import Verdict
    from polyclinic.node.node import Node

app = typer.Typer(
    cls=ShowsByDefault,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="What was asked of a node, decided and done. `journal NODE` shows it.",
)


@app.command()
def show(
    node: NodeId,
    experiment: Annotated[str | None, typer.Option(metavar="ID", help="Only what belongs to this experiment.")] = None,
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="Only from then on, UTC: 2026-11-24 or 2026-11-24T12:00.")
    ] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Only rows of this kind, for example ended.")] = None,
    at: At = None,
) -> None:
    """Show the journal, a row a line.

    Examples:

    `polyclinic node journal guys --since 2026-11-01`

    `polyclinic node journal guys --experiment heart-1 --kind ended`
    """
    from rich.console import Console

    from polyclinic.errors import ConfigError, nearest
    from polyclinic.node.experiment_report import rows_of
    from polyclinic.node.journal_check import read
    from polyclinic.node.journal_facts import KINDS
    from polyclinic.node.journal_text import sentence

    if kind is not None and kind not in KINDS:
        raise ConfigError(f"the journal has no rows of kind {kind!r}", to_do=nearest(kind, KINDS))
    opened: Node = open_node(node, at)
    assert opened.engine is not None
    rows = read(opened.engine) if experiment is None else rows_of(opened.engine, experiment)
    begins, console, count = _moment(since), Console(), 0
    for row in rows:
        if row.time >= begins and kind in (None, row.kind):
            count += 1
            console.print(
                f"{row.number:>6}  {row.time[:19].replace('T', ' ')}  {row.kind:<9} {sentence(row)}",
                markup=False, highlight=False, soft_wrap=True,
            )  # fmt: skip
    if not count:
        console.print("No rows.")


@app.command()
def verify(
    node: NodeId,
    key: Annotated[
        str, typer.Option(metavar="U…", help="The node's public key, as you know it. Default: as the journal names it.")
    ] = "",
    at: At = None,
) -> None:
    """Look at all rows: whether any was changed, taken out, moved or cut off. Exit code 1 names the first.

    Example: `polyclinic node journal verify guys`
    """
    from polyclinic.errors import JournalBroken
    from polyclinic.federation.over_nats.node_journal import signature_check
    from polyclinic.node.journal_check import verify as look
    from polyclinic.node.journal_text import verdict_lines

    opened: Node = open_node(node, at)
    assert opened.engine is not None
    check = signature_check()
    verdict: Verdict = look(opened.engine, folder=opened.folder, is_signed=check, key=key)
    if verdict.row is not None:
        raise JournalBroken(
            f"row {verdict.row} of the journal of node {node}: {verdict.problem}",
            to_do="keep the node's folder as it is, compare with the last export, and find out who did it",
        )
    for line in verdict_lines(verdict, checked=check is not None):
        typer.echo(line)


@app.command()
def export(
    node: NodeId,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Default: NODE-journal-DATE.jsonl in the current folder.")
    ] = None,
    at: At = None,
) -> None:
    """Write the journal into a file of JSON lines, with a detached signature by the node's key.

    Example: `polyclinic node journal export guys --to journal.jsonl`
    """
    from datetime import UTC, datetime

    from polyclinic.federation.over_nats.node_journal import journal_of
    from polyclinic.node.journal_export import export as write

    opened: Node = open_node(node, at)
    assert opened.engine is not None
    assert opened.folder is not None
    path = to or Path(f"{node}-journal-{datetime.now(UTC):%Y-%m-%d}.jsonl")
    keys: dict[str, Any] = {}
    if journal_of(opened).sign():
        from polyclinic.federation.over_nats.identity import Identity, node_identity_folder, raw_public_key

        pair = Identity.load(node_identity_folder(opened.folder)).keys
        keys = {"sign": pair.sign, "raw_public_key": raw_public_key(pair.public_key)}
    for file in write(opened.engine, path, **keys):
        typer.echo(f"Wrote {file}")
    if not keys:
        typer.echo("Not signed: the node has not joined a hub, and has no key.")


def report(
    node: NodeId,
    experiment: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="The experiment's id.")],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to write into. Default: the current one.")
    ] = None,
    at: At = None,
) -> None:
    """Write one page on an experiment, as HTML and as text, for the hospital's files: who, what, approved by whom, on
    which data, under which protections, what left, and what came of it.

    Example: `polyclinic node report guys heart-1`
    """
    from polyclinic.federation.over_nats.node_journal import signature_check
    from polyclinic.node.experiment_report import ExperimentReport
    from polyclinic.node.journal_check import verify as look
    from polyclinic.node.registry import identifier
    from polyclinic.node.report_page import html_page, text_page

    opened: Node = open_node(node, at)
    assert opened.engine is not None
    verdict = look(opened.engine, folder=opened.folder, is_signed=signature_check())
    found = ExperimentReport.of(opened, experiment, verdict)
    folder = to or Path()
    folder.mkdir(parents=True, exist_ok=True)
    for end, text in ((".html", html_page(found)), (".txt", text_page(found))):
        path = folder / f"{node}-{identifier(experiment)}{end}"
        path.write_text(text, encoding="utf-8")
        typer.echo(f"Wrote {path}")


def _moment(since: str | None) -> str:
    """As the times of rows are written, to be compared with them."""
    from datetime import UTC, datetime

    from polyclinic.errors import ConfigError

    if since is None:
        return ""
    try:
        moment = datetime.fromisoformat(since)
    except ValueError:
        raise ConfigError(f"{since!r} is no date", to_do="write it as 2026-11-24, or 2026-11-24T12:00 (UTC)") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
