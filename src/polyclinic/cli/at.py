"""Which node of this machine is meant: its id, and where its folder is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

NodeId = Annotated[str, typer.Argument(metavar="NODE", help="The node's id, for example cleveland.")]
At = Annotated[
    Path | None,
    typer.Option(
        "--at",
        metavar="DIR",
        envvar="POLYCLINIC_FEDERATION",
        help="The folder of the nodes' folders. Default: one in your data folder.",
    ),
]


def place_of(at: Path | None) -> Path:
    """The chosen place, absolute."""
    from polyclinic.federation.places import default_place

    return default_place() if at is None else at.expanduser().absolute()


def open_node(node_id: str, at: Path | None) -> Any:
    """The `Node` with this id at the chosen place, with a registry that can be changed.

    Raises:
        NodeError: there is none.
    """
    from polyclinic.errors import NodeError, nearest
    from polyclinic.node.database import node_folders
    from polyclinic.node.node import Node

    place = place_of(at)
    there = [folder.name for folder in node_folders(place)]
    if node_id not in there:
        to_do = f"{nearest(node_id, there)}; make a node with: polyclinic node create NAME"
        raise NodeError(f"there is no node {node_id!r} at {place}", to_do=to_do)
    return Node.open(place / node_id)
