"""What requests and replies have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Identifier = Annotated[str, Field(min_length=1, max_length=200)]


class Message(BaseModel):
    """Frozen, closed, versioned: ``kind`` is ``name/version``, and is read before anything else.

    ``tensors`` (name -> torch tensor) travel beside the JSON header, never in it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants")

    kind: str
    tensors: Annotated[Mapping[str, Any], Field(exclude=True, repr=False)] = {}


class Part(BaseModel):
    """A group of fields inside a message."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, ser_json_inf_nan="constants")
