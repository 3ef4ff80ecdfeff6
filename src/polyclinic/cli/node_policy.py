"""``polyclinic node policy``: what a node allows."""

from __future__ import annotations

import getpass
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polyclinic.cli.at import At, NodeId, open_node

if TYPE_CHECKING:
    from polyclinic.node.node import Node
    from polyclinic.node.policy import Policy

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="What a node allows: who may do what with which data, and what may leave.",
)

_STYLES = {"usual": "", "stricter": "green", "looser": "bold red", "changed": "yellow"}


@app.command()
def show(node: NodeId, at: At = None) -> None:
    """Show what is in force, in words. Green is stricter than the defaults, red is looser.

    Example: `polyclinic node policy show guys`
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from polyclinic.node.policy import Policy
    from polyclinic.node.policy_file import POLICY_FILE
    from polyclinic.node.policy_words import doubts, in_words

    opened = open_node(node, at)
    policy = Policy.load(opened.folder)
    path = opened.folder / POLICY_FILE
    where = f"{path}, SHA-256 {policy.digest[:16]}…" if path.exists() else "the defaults: there is no file yet"
    typer.echo(f"Policy of node {node} ({where})")
    table, before = Table("", "", box=None, show_header=False), ""
    for sentence in in_words(policy):
        style = _STYLES[sentence.kind]
        about = "" if sentence.about == before else sentence.about
        table.add_row(Text(about), Text(sentence.text, style=style))
        before = sentence.about
    Console().print(table)
    for doubt in doubts(policy, *_known(opened)):
        typer.secho(f"Note: {doubt}", fg="yellow")


@app.command()
def edit(
    node: NodeId,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change this value, without an editor; may be repeated."),
    ] = None,
    discard_draft: Annotated[
        bool, typer.Option("--discard-draft", help="Begin anew, without what was left of an earlier edit.")
    ] = False,
    at: At = None,
) -> None:
    """Change the policy, in the editor that `EDITOR` names. It is checked first; a running node sees it at once.

    Examples:

    `polyclinic node policy edit guys`

    `polyclinic node policy edit guys --set datasets.heart.minimum_training_rows=50 --set leaves.losses=false`
    """
    from polyclinic.errors import PolyclinicError
    from polyclinic.node.policy_edit import DRAFT, text_in_force, with_values

    opened = open_node(node, at)
    folder: Path = opened.folder
    draft, before = folder / DRAFT, text_in_force(folder)
    if values:
        _installed(opened, before, with_values(before, values))
        return
    if discard_draft:
        draft.unlink(missing_ok=True)
    if draft.exists():
        typer.echo(f"This goes on with the draft that was left at {draft}")
    else:
        _write_private(draft, before)
    while True:
        _run_editor(draft)
        text = draft.read_text(encoding="utf-8")
        try:
            _installed(opened, before, text)
            break
        except PolyclinicError as err:
            typer.secho(f"Not taken: {err}", fg="red", err=True)
            if not typer.confirm("Edit it again?", default=True):
                typer.echo(f"Nothing was changed. Your draft is at {draft}")
                raise typer.Exit(1) from None
            before = text_in_force(folder)
    draft.unlink()


def _installed(node: Node, before: str, text: str) -> None:
    """Puts a text in force, notes it in the journal, and says what changed."""
    from polyclinic.federation.over_nats.node_journal import journal_of
    from polyclinic.node.policy_edit import changes, digest_of, install
    from polyclinic.node.policy_words import doubts

    assert node.folder is not None
    old = _valid(before)
    new = install(node.folder, text, instead_of=before)
    if new.digest != digest_of(before) or old is None:
        journal = journal_of(node)
        journal.write("policy", digest=new.digest, before=digest_of(before), by=getpass.getuser())
        journal.flush()
    found = changes(old, new)
    typer.echo("\n".join(found) if found else "Nothing was changed.")
    for doubt in doubts(new, *_known(node)):
        typer.secho(f"Note: {doubt}", fg="yellow")


def _valid(text: str) -> Policy | None:
    from polyclinic.errors import PolicyInvalid
    from polyclinic.node.policy import Policy

    try:
        return Policy.parse(text.encode())
    except PolicyInvalid:
        return None


def _known(node: Node) -> tuple[list[str], list[str] | None]:
    """The ids of the datasets that are registered, and of the researchers that are trusted; None: all are."""
    from polyclinic.federation.over_nats.trust import Trust

    assert node.folder is not None
    trust = Trust.load(node.folder)
    return [dataset.dataset_id for dataset in node.registry.datasets()], None if trust.everyone else list(trust.keys)


def _run_editor(draft: Path) -> None:
    from polyclinic.errors import ConfigError

    command = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    if not command or shutil.which(command[0]) is None:
        raise ConfigError(
            f"there is no editor {' '.join(command)!r}", to_do="set EDITOR to one, or use --set KEY=VALUE", draft=draft
        )
    code = subprocess.run([*command, str(draft)], check=False).returncode
    if code:
        raise ConfigError(f"the editor ended with code {code}; nothing was changed", to_do="edit it again", draft=draft)


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
