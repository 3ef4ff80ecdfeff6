"""Messages <-> bytes.

A message is: ``PLYC``, the length of its header (4 bytes, little-endian), the header (JSON, padded with spaces so
that tensors stay aligned), then its tensors as a safetensors buffer. Nothing else is ever read: no pickle, and no
class that is not in the table below. Bytes that are no message raise MessageError and nothing else.
"""

from __future__ import annotations

from pydantic import ValidationError

from polyclinic import tensors
from polyclinic.errors import MessageError
from polyclinic.messages import replies, requests
from polyclinic.messages.message import Message

MAGIC = b"PLYC"
MAX_HEADER_BYTES = 8 << 20

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
    """The parts whose concatenation is the message; tensors are views of memory, not copies."""
    header = message.model_dump_json().encode()
    if len(header) > MAX_HEADER_BYTES:
        raise MessageError(
            f"the message header has {len(header)} bytes, at most {MAX_HEADER_BYTES} travel",
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
    except (ValidationError, RecursionError) as err:
        # Only the places are named: the values may be anything.
        places = [".".join(map(str, e["loc"])) for e in err.errors()] if isinstance(err, ValidationError) else []
        raise MessageError(f"a {message_class.__name__} with unfit fields: {', '.join(places)[:500]}") from None
    return message.model_copy(update={"tensors": tensors.decode(view[8 + length :])})


def _class_of(header: bytes) -> type[Message]:
    fields = tensors.parse_json(header, constants=True)
    kind = fields.get("kind") if isinstance(fields, dict) else None
    if not isinstance(kind, str) or "tensors" in fields:
        raise MessageError("the message header names no kind")
    if kind in KINDS:
        return KINDS[kind]
    name = kind.partition("/")[0]
    ours = sorted(known for known in KINDS if known.partition("/")[0] == name)
    if ours:
        raise MessageError(
            f"a message of kind {kind[:80]!r}; this Polyclinic reads {ours[-1]!r}",
            to_do="install the same major version of Polyclinic on both sides",
        )
    raise MessageError(f"a message of unknown kind {kind[:80]!r}")
