"""The option that hands a dataset its own further options, as JSON."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from polyclinic.errors import ConfigError

Options = Annotated[
    str,
    typer.Option(
        "--options", metavar="JSON", help="Further options of this dataset, as its page names them, by their names."
    ),
]


def options_of(text: str) -> dict[str, Any]:
    """The options in a JSON object; ConfigError if it is none."""
    try:
        found = json.loads(text or "{}")
    except ValueError as err:
        found = err
    if not isinstance(found, dict):
        raise ConfigError(
            f"--options takes a JSON object, not {text}",
            to_do="""write for example  --options '{"patch_size": [64, 128, 128]}'""",
        )
    return found
