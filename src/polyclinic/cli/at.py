"""The option that chooses where the nodes of this machine are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
