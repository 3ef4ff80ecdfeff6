"""``polyclinic node start``, ``status``, ``stop``, ``stop-task`` and ``trust``: a node that has joined a hub."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from polyclinic.cli.at import At, place_of

if TYPE_CHECKING:
    from polyclinic.federation.over_nats.identity import Identity
    from polyclinic.federation.over_nats.status import NodeStatus

_SHOWN = 20  # of those that wait

Node = Annotated[
    str | None, typer.Argument(metavar="NODE", help="The node's id; not needed where only one has joined a hub.")
]


def start(
    node: Node = None,
    at: At = None,
) -> None:
    """Work for the hub that the node has joined, until Ctrl-C or `polyclinic node stop`.

    The node only dials out. When the hub is away it waits, and when it was killed it goes on with what it had to do.

    Example: `polyclinic node start guys`
    """
    import logging

    from polyclinic.federation.over_nats import event_loop
    from polyclinic.federation.over_nats.node_loop import NodeLoop
    from polyclinic.node.node import Node as TheNode

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    # Of asyncio about the end of each TLS connection.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    folder = _folder(node, at)
    event_loop.run(NodeLoop(TheNode.open(folder, at_work=True)).run())
    typer.echo("The node has stopped.")


def status(node: Node = None, at: At = None) -> None:
    """Show whether the node runs, what it works on, who waits, and whom it trusts."""
    from rich.console import Console

    from polyclinic.federation.over_nats.identity import Identity, node_identity_folder
    from polyclinic.federation.over_nats.status import NodeStatus
    from polyclinic.federation.over_nats.trust import Trust

    folder = _folder(node, at)
    console = Console()
    for line in _lines(
        Identity.load(node_identity_folder(folder)), NodeStatus.read(folder), Trust.load(folder).describe()
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def stop(node: Node = None, at: At = None) -> None:
    """End a running node. What it works on is done again from the beginning when it is started."""
    import os
    import signal
    import time
    from contextlib import suppress

    from polyclinic.errors import NodeError
    from polyclinic.federation.over_nats.status import NodeStatus

    folder = _folder(node, at)
    running = NodeStatus.read(folder)
    if running is None:
        typer.echo(f"Node {folder.name} does not run.")
        return
    with suppress(ProcessLookupError):
        os.kill(running.pid, signal.SIGTERM)
    until = time.monotonic() + 30
    while NodeStatus.read(folder) is not None:
        if time.monotonic() > until:
            raise NodeError(
                f"node {folder.name}, process {running.pid}, does not end", to_do=f"kill it: kill -9 {running.pid}"
            )
        time.sleep(0.1)
    typer.echo("The node has stopped.")


def stop_task(node: Node = None, at: At = None) -> None:
    """Stop what the node works on now. The researcher is told; the node goes on with the next request."""
    import os
    import signal

    from polyclinic.federation.over_nats.status import NodeStatus

    folder = _folder(node, at)
    running = NodeStatus.read(folder)
    if running is None or running.task is None:
        typer.echo(f"Node {folder.name} {'does not run' if running is None else 'works on nothing'}.")
        return
    os.kill(running.pid, signal.SIGUSR1)
    typer.echo(f"Stopped: {running.task.describe()}")


def trust(
    node: Annotated[str, typer.Argument(metavar="NODE", help="The node's id.")],
    researcher: Annotated[
        str | None, typer.Argument(metavar="RESEARCHER", help="The researcher's id; without one, the list is shown.")
    ] = None,
    key: Annotated[
        str, typer.Option(metavar="U…", help="Their public key, as they told you. Without it the hub is believed.")
    ] = "",
    remove: Annotated[bool, typer.Option("--remove", help="Take the researcher off the list.")] = False,
    everyone: Annotated[
        bool | None, typer.Option("--all/--not-all", help="Trust whoever the hub lets in as a researcher.")
    ] = None,
    at: At = None,
) -> None:
    """Say which researchers a node works for. At first it works for nobody.

    Examples:

    `polyclinic node trust guys ada --key UAF6…`

    `polyclinic node trust guys ada --remove`
    """
    from dataclasses import replace

    from polyclinic.federation.over_nats.node_journal import journal_of, note_trust
    from polyclinic.federation.over_nats.trust import Trust
    from polyclinic.node.journal import login
    from polyclinic.node.node import Node as TheNode

    folder = _folder(node, at)
    trusted = before = Trust.load(folder)
    if everyone is not None:
        trusted = replace(trusted, everyone=everyone)
    if researcher and remove:
        trusted = trusted.without(researcher)
    elif researcher:
        trusted = trusted.plus(researcher, key or _key_at_hub(folder, researcher))
    trusted.save(folder)
    note_trust(journal_of(TheNode.open(folder)), before, trusted, by=login())
    for line in trusted.describe():
        typer.echo(line)


def _key_at_hub(folder: Path, researcher: str) -> str:
    import asyncio

    from polyclinic.errors import FederationError, nearest
    from polyclinic.federation.over_nats import event_loop
    from polyclinic.federation.over_nats.connection import Link
    from polyclinic.federation.over_nats.identity import Identity, node_identity_folder

    async def ask() -> dict[str, str]:
        link = Link(Identity.load(node_identity_folder(folder)))
        await link.open()
        try:
            answer = await asyncio.wait_for(link.ask_desk("hello", {}), 30)
        finally:
            await link.close()
        return {party["id"]: party["key"] for party in answer["parties"]}

    known = event_loop.run(ask())
    if researcher not in known:
        raise FederationError(f"the hub has no researcher {researcher!r}", to_do=nearest(researcher, known))
    typer.echo(f"The hub says that the public key of {researcher} is {known[researcher]}")
    typer.echo("Compare it with what the researcher tells you over another way.")
    return known[researcher]


def _folder(node: str | None, at: Path | None) -> Path:
    """The folder of the node that is meant."""
    from polyclinic.errors import NodeError, nearest
    from polyclinic.federation.over_nats.identity import IDENTITY, node_identity_folder
    from polyclinic.node.database import node_folders

    place = place_of(at)
    joined = [path.name for path in node_folders(place) if (node_identity_folder(path) / IDENTITY).exists()]
    if node is None and len(joined) == 1:
        return place / joined[0]
    if node is None or node not in joined:
        what = (
            f"node {node!r} at {place} has not joined a hub" if node else f"{len(joined)} nodes at {place} have joined"
        )
        hint = nearest(node or "", joined)
        raise NodeError(what, to_do=f"{hint}; a node joins by: polyclinic node join TOKEN")
    return place / node


def _lines(identity: Identity, running: NodeStatus | None, trusted: list[str]) -> list[str]:
    lines = [f"Node {identity.party_id} ({identity.name}) of the hub {identity.hub_name}"]
    if running is None:
        lines.append("It does not run. Start it: polyclinic node start")
    else:
        lines.append(f"It runs as process {running.pid}; {'connected' if running.connected else 'the hub is away'}.")
        lines.append(f"Works on: {running.task.describe() if running.task else 'nothing'}")
        lines.append("Waiting: " + (f"{len(running.waiting)}, in this order" if running.waiting else "nothing"))
        lines += [f"  {number}. {task.what}" for number, task in enumerate(running.waiting[:_SHOWN], 1)]
        if more := running.waiting[_SHOWN:]:
            counts = Counter(task.researcher for task in more)
            lines.append("  … and " + ", ".join(f"{count} of {who}" for who, count in counts.items()))
    return lines + trusted
