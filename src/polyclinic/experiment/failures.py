"""What to say of nodes that failed: those that failed alike are named together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from polyclinic.errors import PolyclinicError
from polyclinic.messages.replies import Failure

E = TypeVar("E", bound=PolyclinicError)


def named_together(failures: Sequence[Failure], names: Mapping[str, str]) -> str:
    """One line for each way to fail, with the nodes that failed so.

    Args:
        names: of the nodes, by id.
    """
    lines = [
        f"\n  node {', '.join(repr(names[f.node_id]) for f in group)} failed at stage {stage!r} ({code}): {what}"
        for (stage, code, what), group in _alike(failures).items()
    ]
    return "".join(lines)


def advice(failures: Sequence[Failure]) -> str:
    """What the nodes say is to be done, each thing once."""
    return "; ".join(dict.fromkeys(f.to_do for f in failures if f.to_do))


def with_tracebacks(error: E, failures: Sequence[Failure], names: Mapping[str, str]) -> E:
    """The error, with one node's traceback as a note for each way to fail, where nodes tell it."""
    for group in _alike(failures).values():
        if group[0].traceback:
            error.add_note(f"At node {names[group[0].node_id]!r}:\n{group[0].traceback.rstrip()}")
    return error


def _alike(failures: Sequence[Failure]) -> dict[tuple[str, str, str], list[Failure]]:
    alike: dict[tuple[str, str, str], list[Failure]] = {}
    for failure in failures:
        alike.setdefault((failure.stage, failure.code, failure.what), []).append(failure)
    return alike
