"""Versions of messages, ``major.minor``, and what different ones make of each other.

The major version is in each message's kind (``train-request/1``), and another one is not read at all. Within a major
version, fields are only added, each with the minor version that it came with (`later`). A field with its default is
left out, so that earlier versions read whatever does not need it. A message that does need it says so (``minor`` in its
header). An earlier version then refuses a request, because it could not do what is asked; of a reply, it leaves out
what it does not know. Fields that only tell something (``droppable``) are left out of what goes to an earlier version.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, Field

MAJOR = 1
MINOR = 1
VERSION = f"{MAJOR}.{MINOR}"

_KEY, _DROPPABLE = "minor", "droppable"
M = TypeVar("M", bound=BaseModel)


def later(minor: int, default: Any, *, droppable: bool = False, **settings: Any) -> Any:
    """A field that messages have since a minor version: left out of what is written where it has its default.

    Args:
        minor: the version that it came with.
        default: an immutable value, which stands for what was done before.
        droppable: whether earlier versions do the same without it.
        settings: others of pydantic's ``Field``.
    """
    extra: dict[str, Any] = {_KEY: minor, _DROPPABLE: droppable}
    return Field(default=default, exclude_if=lambda value: value == default, json_schema_extra=extra, **settings)


def as_of(message: M, minor: int) -> M:
    """The message as a reader of this minor version gets it: without what can be left out for it."""
    fields = type(message).model_fields
    extras = {name: field.json_schema_extra for name, field in fields.items()}
    later_ones = {
        name: fields[name].default
        for name, extra in extras.items()
        if isinstance(extra, Mapping) and extra.get(_DROPPABLE) and int(str(extra[_KEY])) > minor
    }
    return message.model_copy(update=later_ones) if later_ones else message


def needed_minor(value: object) -> int:
    """The minor version that one must know to read this message, or part of one."""
    if isinstance(value, BaseModel):
        own = max((minor for name, minor, default in _later(type(value)) if getattr(value, name) != default), default=0)
        parts = [needed_minor(part) for part in vars(value).values() if isinstance(part, BaseModel | tuple)]
        return max(own, *parts) if parts else own
    if isinstance(value, tuple):
        return max(map(needed_minor, value), default=0)
    return 0


@cache
def _later(message_class: type[BaseModel]) -> list[tuple[str, int, Any]]:
    """The fields that came later: names, the minor versions that they came with, and defaults."""
    return [
        (name, int(str(extra[_KEY])), field.default)
        for name, field in message_class.model_fields.items()
        if isinstance(extra := field.json_schema_extra, Mapping) and _KEY in extra
    ]


def parse_version(text: object) -> tuple[int, int] | None:
    """Major and minor of ``"1.1"``; None if it is no version."""
    major, _, minor = str(text).partition(".")
    if not (major.isascii() and major.isdecimal() and minor.isascii() and minor.isdecimal()) or len(str(text)) > 20:
        return None
    return int(major), int(minor)


def without(fields: dict[str, Any], places: Iterable[tuple[int | str, ...]]) -> dict[str, Any]:
    """A message's fields without those at the places; changed where they are."""
    for *path, last in places:
        inner: Any = fields
        for step in path:
            inner = inner[step]
        del inner[last]
    return fields
