"""The settings of a dataset, from Python, from a database's JSON or from a command line's words.

A plain text is split at commas; the entries of a list are taken whole, so a name that holds a comma can be
given as a list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pydantic

from polyclinic.errors import ConfigError, reject_unknown


class KindParams(pydantic.BaseModel):
    """Base of every kind's ``Params``. Raises ConfigError for anything that does not fit."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    @pydantic.model_validator(mode="wrap")
    @classmethod
    def _say_what_does_not_fit(cls, given: Any, handler: pydantic.ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(given, Mapping):
            given = {str(key).replace("-", "_"): value for key, value in given.items()}
            reject_unknown(given, cls.model_fields)
        try:
            return handler(given)
        except pydantic.ValidationError as err:
            problems = [(".".join(map(str, e["loc"])) or "settings", e) for e in err.errors()]
            missing = [place for place, e in problems if e["type"] == "missing"]
            if missing:
                options = " and ".join(f"--{place.replace('_', '-')}" for place in missing)
                raise ConfigError(f"missing setting {', '.join(missing)}", to_do=f"give {options}") from None
            raise ConfigError(
                "; ".join(f"{place}: {e['msg'].removeprefix('Value error, ')}" for place, e in problems),
                to_do="see docs/add-your-data.md for what each setting takes",
            ) from None


def _words(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(word.strip() for word in value.split(",") if word.strip())
    if isinstance(value, Iterable) and not isinstance(value, Mapping):
        return tuple(str(word) for word in value)
    return value


def _words_by_name(value: Any) -> Any:
    """``{"sex": ["male", "female"]}``, or its JSON, or ``"sex=male,female"``, or a list of such texts."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _json(value)
    if isinstance(value, str):
        value = [value]
    if isinstance(value, Mapping):
        return {str(name): _words(words) for name, words in value.items()}
    if not isinstance(value, Iterable):
        return value
    pairs = {}
    for text in value:
        name, equals, words = str(text).partition("=")
        if not equals:
            raise ValueError(f"{text!r} is not of the form column=first,second")
        pairs[name.strip()] = _words(words)
    return pairs


def _json(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as err:
        raise ValueError(f"not JSON: {err}") from None


def _size(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(value.lower().replace("x", ",").split(","))
    return value


def _channels(value: Any) -> Any:
    # A literal takes no text, and all options of a command line are texts.
    return int(value) if value in ("1", "3") else value


def _absolute(path: Path) -> Path:
    # A program that opens the node later may run in another folder.
    return path.expanduser().absolute()


Words = Annotated[tuple[str, ...], pydantic.BeforeValidator(_words)]
WordsByName = Annotated[dict[str, tuple[str, ...]], pydantic.BeforeValidator(_words_by_name)]
JsonObject = Annotated[dict[str, pydantic.JsonValue], pydantic.BeforeValidator(_json)]
Size = Annotated[tuple[pydantic.PositiveInt, pydantic.PositiveInt], pydantic.BeforeValidator(_size)]
Channels = Annotated[Literal[1, 3], pydantic.BeforeValidator(_channels)]
AbsolutePath = Annotated[Path, pydantic.AfterValidator(_absolute)]
TestFraction = Annotated[float, pydantic.Field(gt=0, lt=1)]
