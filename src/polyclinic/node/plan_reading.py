"""Help for the person who reads a plan before saying yes to it. Help, and no protection: the sandbox protects."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Remark:
    """Something worth a look.

    Args:
        line: counted from 1.
    """

    line: int
    what: str


def remarks(text: str) -> list[Remark]:
    """What a plan does that training seldom needs: network, files, processes, code made at run time."""
    raise NotImplementedError


def imports(text: str) -> list[str]:
    """The modules that a plan imports, sorted."""
    raise NotImplementedError


def shown(text: str) -> str:
    """The text with every character that is invisible, or changes the direction of writing, written as an escape."""
    raise NotImplementedError


def difference(before: str, after: str) -> list[str]:
    """The lines of a unified difference."""
    raise NotImplementedError
