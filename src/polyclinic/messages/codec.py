"""Messages <-> bytes.

A message is: ``PLYC``, the length of its header (4 bytes, little-endian), the header (JSON, padded with spaces so
that tensors stay aligned), then its tensors as a safetensors buffer. Nothing else is ever read: no pickle, and no
class that is not in the table below. Bytes that are no message raise MessageError and nothing else.
"""

from __future__ import annotations

import re

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError

from polyclinic import tensors
from polyclinic.errors import MessageError
from polyclinic.messages import replies, requests
from polyclinic.messages.message import Message

MAGIC = b"PLYC"
MAX_HEADER_BYTES = 8 << 20
_KIND = re.compile(r"[a-z-]{1,40}/[0-9]{1,6}")

KINDS: dict[str, type[Message]] = {
    cls.model_fields["kind"].default: cls
    for cls in (
        requests.SearchRequest,
        requests.CheckRequest,
        requests.TrainRequest,
        requests.EvaluateRequest,
        replies.SearchReply,
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
        MessageError: for anything else than one whole message of a known kind and version.
    """
    view = memoryview(buffer)
    if len(view) < 8 or bytes(view[:4]) != MAGIC:
        raise MessageError("these bytes are no message: they do not start with the mark of one")
    length = int.from_bytes(view[4:8], "little")
    if length > MAX_HEADER_BYTES or length > len(view) - 8:
        raise MessageError(f"a message header of {length} bytes does not fit")
    header = bytes(view[8 : 8 + length])
    message_class = _class_of(header)
    try:
        message = message_class.model_validate_json(header)
    except ValidationError as err:
        # Only the places are named: the values may be anything.
        found = err.errors(include_url=False, include_context=False, include_input=False)
        places = ", ".join(ascii(".".join(map(str, e["loc"])))[1:-1] for e in found[:20])
        raise MessageError(f"a {message_class.__name__} with unfit fields: {places[:500]}") from None
    return message.model_copy(update={"tensors": tensors.decode(view[8 + length :])})


def _class_of(header: bytes) -> type[Message]:
    fields = tensors.parse_json(header, constants=True)
    kind = fields.get("kind") if isinstance(fields, dict) else None
    if not isinstance(kind, str):
        raise MessageError("the message header names no kind")
    if "tensors" in fields:
        raise MessageError("the message header has tensors in it: they travel beside it")
    if kind in KINDS:
        return KINDS[kind]
    ours = [known for known in KINDS if known.partition("/")[0] == kind.partition("/")[0]]
    # What does not look like a kind is not repeated: it may be anything.
    named = repr(kind) if _KIND.fullmatch(kind) else "(not shown: it is not name/version)"
    if ours:
        raise MessageError(
            f"a message of kind {named}; this Polyclinic reads {ours[-1]!r}",
            to_do="install the same major version of Polyclinic on both sides",
        )
    raise MessageError(f"a message of unknown kind {named}")
