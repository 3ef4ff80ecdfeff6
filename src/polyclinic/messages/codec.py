"""Messages <-> bytes.

A message is: ``PLYC``, the length of its header (4 bytes, little-endian), the header (JSON, padded with spaces so
that tensors stay aligned), then its tensors as a safetensors buffer. Nothing else is ever read: no pickle, and no
class that is not in the table below. Bytes that are no message raise MessageError and nothing else.
"""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from polyclinic import tensors
from polyclinic.errors import MessageError, OtherVersion
from polyclinic.messages import replies, requests
from polyclinic.messages.message import Message
from polyclinic.messages.version import MAJOR, MINOR, VERSION, needed_minor, without

MAGIC = b"PLYC"
MAX_HEADER_BYTES = 8 << 20
_UNKNOWN = "extra_forbidden"  # what pydantic calls a field that there is not
_KIND = re.compile(r"[a-z-]{1,40}/[0-9]{1,6}")

KINDS: dict[str, type[Message]] = {
    cls.model_fields["kind"].default: cls
    for cls in (
        requests.SearchRequest,
        requests.ApprovalRequest,
        requests.CheckRequest,
        requests.TrainRequest,
        requests.EvaluateRequest,
        replies.SearchReply,
        replies.ApprovalReply,
        replies.CheckReply,
        replies.TrainReply,
        replies.EvaluateReply,
        replies.Failure,
    )
}


def encode(message: Message) -> list[bytes | memoryview]:
    """The parts whose concatenation is the message; tensors are views of memory, not copies.

    Raises:
        MessageError: for what cannot travel: values that are not JSON, a header that is too large, odd tensors.
    """
    try:
        header = message.model_dump_json().encode()
    except PydanticSerializationError:
        raise MessageError(
            f"a {type(message).__name__} holds a value that is not JSON",
            to_do="use numbers, valid Unicode texts, true/false, None, lists, and dicts with text keys",
        ) from None
    if minor := needed_minor(message):
        header = b'{"minor":%d,' % minor + header[1:]
    if len(header) > MAX_HEADER_BYTES or tensors.num_json_values(header) > tensors.MAX_JSON_VALUES:
        raise MessageError(
            f"the message header has {len(header)} bytes and about {tensors.num_json_values(header)} values, at most "
            f"{MAX_HEADER_BYTES} bytes and {tensors.MAX_JSON_VALUES} values travel",
            to_do="a plan or its arguments are too large: data belong in a dataset at the node",
        )
    header += b" " * (-len(header) % 8)
    return [MAGIC + len(header).to_bytes(4, "little") + header, *tensors.encode(message.tensors)]


def decode(buffer: tensors.Buffer) -> Message:
    """The message in ``buffer``; its tensors are views of the buffer where it is writable.

    Raises:
        MessageError: for anything else than one whole message of a known kind.
        OtherVersion: it is of another major version, or a request that needs a later minor version.
    """
    view = memoryview(buffer)
    if len(view) < 8 or bytes(view[:4]) != MAGIC:
        raise MessageError("these bytes are no message: they do not start with the mark of one")
    length = int.from_bytes(view[4:8], "little")
    if length > MAX_HEADER_BYTES or length > len(view) - 8:
        raise MessageError(f"a message header of {length} bytes does not fit")
    header = bytes(view[8 : 8 + length])
    fields = _fields(header)
    message_class, minor = _class_of(fields), _minor(fields)
    if minor:
        header = json.dumps(fields).encode()
    message = _validated(message_class, header, fields, minor)
    return message.model_copy(update={"tensors": tensors.decode(view[8 + length :])})


def _validated(message_class: type[Message], header: bytes, fields: dict[str, Any], minor: int) -> Message:
    try:
        return message_class.model_validate_json(header)
    except ValidationError as err:
        # Only the places are named: the values may be anything.
        found = err.errors(include_url=False, include_context=False, include_input=False)
    places = [e["loc"] for e in found]
    named = ", ".join(ascii(".".join(map(str, place)))[1:-1] for place in places[:20])[:500]
    if minor > MINOR and issubclass(message_class, replies.Reply) and all(e["type"] == _UNKNOWN for e in found):
        # What a later version tells in addition.
        return _validated(message_class, json.dumps(without(fields, places)).encode(), fields, 0)
    if minor > MINOR:
        raise OtherVersion(
            f"a {message_class.__name__} of message version {MAJOR}.{minor} has {named}; here messages are read up to "
            f"version {VERSION}",
            to_do="install the newer Polyclinic here, or do without what is new",
        )
    raise MessageError(f"a {message_class.__name__} with unfit fields: {named}")


def _fields(header: bytes) -> dict[str, Any]:
    fields = tensors.parse_json(header, constants=True)
    if not isinstance(fields, dict) or not isinstance(fields.get("kind"), str):
        raise MessageError("the message header names no kind")
    if "tensors" in fields:
        raise MessageError("the message header has tensors in it: they travel beside it")
    return fields


def _minor(fields: dict[str, Any]) -> int:
    """Takes the minor version that the message needs out of its fields."""
    if "minor" not in fields:
        return 0
    minor = fields.pop("minor")
    if type(minor) is not int or not 1 <= minor < 1_000_000:
        raise MessageError("the message header has no fit minor version")
    return minor


def _class_of(fields: dict[str, Any]) -> type[Message]:
    kind: str = fields["kind"]
    if kind in KINDS:
        return KINDS[kind]
    ours = [known for known in KINDS if known.partition("/")[0] == kind.partition("/")[0]]
    # What does not look like a kind is not repeated: it may be anything.
    named = repr(kind) if _KIND.fullmatch(kind) else "(not shown: it is not name/version)"
    if ours:
        raise OtherVersion(
            f"a message of kind {named}; this Polyclinic reads {ours[-1]!r}",
            to_do="install the same major version of Polyclinic on both sides",
        )
    raise MessageError(f"a message of unknown kind {named}")
