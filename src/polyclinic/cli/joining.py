"""``polyclinic node join`` and ``polyclinic federation use``: how nodes and researchers become members of a hub."""

from __future__ import annotations

from typing import Annotated

import typer

from polyclinic.cli.at import At, place_of

Token = Annotated[str, typer.Argument(metavar="TOKEN", help="The line that the hub's operator sent you.")]


Dial = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Reach the hub by this address, not by those in the token."),
]


def join_node(token: Token, dial: Dial = None, at: At = None) -> None:
    """Make this machine's node a member of a hub. Its key is made here, and never leaves.

    The node gets the name that is in the token. One of that name that is here already, with its datasets, is used.

    Example: `polyclinic node join polyclinic-join-1.eyJpZCI6…`
    """
    from contextlib import suppress

    from polyclinic.federation.hub.joining import join, read_token, require_same_hub
    from polyclinic.federation.over_nats.identity import node_identity_folder
    from polyclinic.federation.over_nats.node_journal import journal_of
    from polyclinic.federation.over_nats.subjects import Role
    from polyclinic.node.database import is_node_folder
    from polyclinic.node.node import Node

    read = read_token(token, Role.NODE, dial=dial)
    place = place_of(at)
    folder = place / read.party_id
    require_same_hub(read, node_identity_folder(folder))
    try:
        identity = join(read, node_identity_folder(folder))
    except BaseException:
        # Of a token that was refused, no empty folders stay.
        with suppress(OSError):
            node_identity_folder(folder).rmdir()
            folder.rmdir()
        raise
    if not is_node_folder(folder):
        Node.create(place, identity.name)
    journal_of(Node.open(folder))  # writes down the key
    typer.echo(f"Node {identity.party_id} is a member of the hub {identity.hub_name!r}. Its folder is {folder}")
    typer.echo(f"Its public key is {identity.keys.public_key}")
    typer.echo(f"Next: polyclinic node add-dataset {identity.party_id} …, then polyclinic node start")


def use(
    hub: Annotated[
        str, typer.Argument(metavar="HUB", help="A join token; a hub you have joined; or local, for this machine.")
    ],
    dial: Dial = None,
    at: At = None,
) -> None:
    """Say which nodes experiments find from now on: those of a hub, or those of this machine.

    Examples:

    `polyclinic federation use polyclinic-join-1.eyJpZCI6…`

    `polyclinic federation use local`
    """
    from polyclinic.federation.hub.joining import join_as_researcher
    from polyclinic.federation.hub.tokens import is_token
    from polyclinic.federation.over_nats.identity import LOCAL, choose_hub, chosen_hub

    place = place_of(at)
    if is_token(hub):
        choose_hub(place, join_as_researcher(hub, place, dial=dial))
    else:
        choose_hub(place, None if hub == LOCAL else hub)
    identity = chosen_hub(place)
    if identity is None:
        typer.echo(f"Experiments use the nodes at {place}")
        return
    typer.echo(f"Experiments use the hub {identity.hub_name!r}, as {identity.name!r} (id {identity.party_id}).")
    typer.echo(f"Your public key is {identity.keys.public_key}")
    typer.echo("Data managers who trust you say so with it: polyclinic node trust")
