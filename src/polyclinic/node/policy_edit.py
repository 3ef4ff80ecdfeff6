"""Changing a node's policy: a draft that is never lost, checked before it takes the file's place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from polyclinic.errors import ConfigError, PolicyInvalid
from polyclinic.node.policy import Policy, default_text
from polyclinic.node.policy_file import POLICY_FILE, write_policy

DRAFT = "policy.draft.toml"
NONE = "not set"


def text_in_force(folder: Path) -> str:
    """The file's text, also if it is a broken one; the commented defaults where there is none.

    Raises:
        PolicyInvalid: it cannot be read as text.
    """
    try:
        return (folder / POLICY_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return default_text()
    except (OSError, UnicodeDecodeError) as err:
        raise PolicyInvalid(
            f"{POLICY_FILE} cannot be read: {err}", to_do="move it away, and edit the policy again"
        ) from None


def with_values(text: str, assignments: Iterable[str]) -> str:
    """The text of a policy with some values changed; comments and order stay.

    Args:
        assignments: ``"datasets.heart.minimum_training_rows=50"``; a value is written as in TOML, and a word that is
            none there is taken as a text.

    Raises:
        ConfigError: it is no assignment, or the text is no TOML. Whether there is such a key is not looked at.
    """
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            path = [step.strip() for step in key.split(".")]
            if not equals or not all(path):
                raise ConfigError(f"{assignment!r} is no assignment", to_do="write --set leaves.losses=false")
            _put(document, path, _value(value.strip()))
        return tomlkit.dumps(document)
    except (TOMLKitError, TypeError) as err:
        raise ConfigError(f"the policy cannot be changed so: {err}", to_do="use: polyclinic node policy edit") from None


def changes(before: Policy | None, after: Policy) -> list[str]:
    """What differs, a line a key: ``"leaves.losses: true -> false"``.

    Args:
        before: None: there was no valid one.
    """
    old = {} if before is None else dict(_flat(before.model_dump(mode="json")))
    new = dict(_flat(after.model_dump(mode="json")))
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key, NONE) != new.get(key, NONE)]
    return [f"{key}: {old.get(key, NONE)} -> {new.get(key, NONE)}" for key in keys]


def digest_of(text: str) -> str:
    """The SHA-256 of a file of this text, hexadecimal: the policy's `Policy.digest`."""
    return hashlib.sha256(text.encode()).hexdigest()


def install(folder: Path, text: str, *, instead_of: str) -> Policy:
    """Makes the text the node's policy.

    Args:
        instead_of: the text that was read before it was changed.

    Raises:
        PolicyInvalid: it is none, or the folder may be written by others; in the first case nothing was changed.
        ConfigError: somebody else has changed the policy since.
    """
    Policy.parse(text.encode())
    if text_in_force(folder) != instead_of:
        raise ConfigError(
            "the policy was changed by somebody else meanwhile", to_do="look at it again, and put your change into it"
        )
    write_policy(folder, text.encode())
    return Policy.load(folder)


def _put(table: Any, path: list[str], value: Any) -> None:
    import tomlkit

    for step in path[:-1]:
        if step not in table:
            # The tables above the last one stand for themselves only if they have keys of their own.
            table[step] = tomlkit.table(is_super_table=step in ("datasets", "researchers"))
        table = table[step]
        if not isinstance(table, Mapping):
            raise ConfigError(f"{step!r} is no table of the policy", to_do="write TABLE.KEY=VALUE")
    table[path[-1]] = value


def _value(text: str) -> Any:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        return tomlkit.value(text)
    except (TOMLKitError, ValueError):
        return tomlkit.string(text)


def _flat(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    if not isinstance(value, Mapping):
        yield place, json.dumps(value, ensure_ascii=False)
        return
    for key, inner in value.items():
        yield from _flat(inner, f"{place}.{key}" if place else str(key))
