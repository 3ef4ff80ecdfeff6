"""Signed frames: who says what to whom, so that nobody in between can make a node run anything.

A frame is the sender's Ed25519 signature (64 bytes), the length of the envelope (4 bytes, little-endian), the envelope
(JSON), and the message's body. The signature is over all that follows it, and a mark of what it is for. The envelope
names sender, recipient, time, and the SHA-256 of tensors that travel apart, so that these are signed as well. The body
is encrypted for the recipient; what the envelope says can be read at the hub.

Time is only compared with a window of days, so that clocks may be hours off; within it every id is accepted once.
"""

from __future__ import annotations

import hashlib
import time
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from polyclinic.errors import MessageError, OtherVersion
from polyclinic.federation.over_nats.encryption import decrypt, encrypt
from polyclinic.federation.over_nats.identity import KeyPair, is_signed

VERSION = 1
WINDOW_SECONDS = 8 * 24 * 3600.0  # one day more than the hub keeps a request
_MARK = b"polyclinic frame 1\n"
_SIGNATURE_BYTES = 64
MAX_ENVELOPE_BYTES = 64 << 10

Word = Annotated[str, Field(max_length=200)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Payload(BaseModel):
    """Tensors that travel apart from their message, in chunks. The body begins with their `Lock`.

    Args:
        sha256: of the lock's salt and the tensors' bytes.
        size: of the tensors' bytes.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    sha256: Sha256
    size: Annotated[int, Field(ge=0)]


class Envelope(BaseModel):
    """What is said about a message. Fields that are not known are of a later version, and ignored.

    Args:
        id: drawn at random for each frame; what the hub delivers twice has the same.
        time: of the sender's clock, in seconds since 1970.
        request_id: the work that it is about; the same again where an experiment asks again for the same round.
        answers: of a reply, the ``id`` of the request's frame.
        digest: `content_digest` of the request; of a reply, that of the request it answers.
        seconds: of a request, what is left until its deadline; None: none.
        tensors: bytes of tensors at the end of the body, which are there instead of a ``payload``.
        encrypted: whether the body is. All are but refusals to a researcher whose key the node does not know.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", allow_inf_nan=False)

    version: int = VERSION
    kind: Literal["request", "reply", "stop"]
    id: Word
    sender: Word
    recipient: Word
    time: float
    request_id: Word = ""
    experiment_id: Word = ""
    round: int = 0
    answers: Word = ""
    digest: Word = ""
    seconds: float | None = None
    tensors: Annotated[int, Field(ge=0)] = 0
    payload: Payload | None = None
    encrypted: bool = False


def content_digest(body: bytes, tensors_sha256: str) -> str:
    """What a request asks for, as SHA-256 of its header and its tensors' SHA-256: equal for equal work."""
    return hashlib.sha256(body + b"\n" + tensors_sha256.encode()).hexdigest()


def seal(envelope: Envelope, body: bytes, keys: KeyPair, to: str = "") -> bytes:
    """The signed frame; ``to``: the recipient's public key, which the body is encrypted for."""
    if to:
        envelope, body = envelope.model_copy(update={"encrypted": True}), encrypt(body, keys, to)
    header = envelope.model_dump_json(exclude_defaults=True).encode()
    # Read before anything else is, so it is there also where it is the default.
    header = b'{"version":%d,' % VERSION + header[1:] if b'"version"' not in header else header
    content = len(header).to_bytes(4, "little") + header + body
    return keys.sign(_MARK + content) + content


def unseal(frame: bytes) -> tuple[Envelope, bytes]:
    """The envelope and the body of a frame, whose signature is not looked at; see `read_body`.

    Raises:
        MessageError: these bytes are no frame.
        OtherVersion: a frame of another major version.
    """
    if len(frame) < _SIGNATURE_BYTES + 4:
        raise MessageError(f"{len(frame)} bytes are no signed message")
    start = _SIGNATURE_BYTES + 4
    length = int.from_bytes(frame[_SIGNATURE_BYTES:start], "little")
    if length > MAX_ENVELOPE_BYTES or start + length > len(frame):
        raise MessageError(f"an envelope of {length} bytes does not fit")
    header = frame[start : start + length]
    try:
        version = _Version.model_validate_json(header).version
        if version != VERSION:
            raise OtherVersion(
                f"a signed message of version {version}; this Polyclinic reads version {VERSION}",
                to_do="install the same major version of Polyclinic at the hospitals and at the researcher",
            )
        return Envelope.model_validate_json(header), frame[start + length :]
    except ValidationError as err:
        # Only the places are named: the values may be anything.
        places = ", ".join(".".join(map(str, e["loc"])) for e in err.errors(include_url=False, include_input=False)[:9])
        raise MessageError(f"an envelope with unfit fields: {ascii(places)[1:200]}") from None


def read_body(envelope: Envelope, body: bytes, keys: KeyPair, sender: str) -> bytes:
    """The body as its sender, whose public key this is, wrote it; ``keys``: the recipient's.

    Raises:
        MessageError: it cannot be decrypted.
    """
    return decrypt(body, keys, sender) if envelope.encrypted else body


def check(frame: bytes, envelope: Envelope, public_key: str, recipient: str, now: float | None = None) -> None:
    """Lets only pass what its sender signed for this recipient, within the window of time.

    Raises:
        MessageError: a signature that does not fit, another recipient, or a time that is days off.
    """
    if not is_signed(public_key, _MARK + frame[_SIGNATURE_BYTES:], frame[:_SIGNATURE_BYTES]):
        raise MessageError(
            f"a {envelope.kind} that is not signed by {envelope.sender}",
            to_do="if its key was made anew, trust it again; else somebody forges messages: ask the hub's operator",
        )
    if envelope.recipient != recipient:
        raise MessageError(f"a {envelope.kind} for {envelope.recipient} came to {recipient}")
    off = (time.time() if now is None else now) - envelope.time
    if abs(off) > WINDOW_SECONDS:
        raise MessageError(
            f"a {envelope.kind} whose time is {off / 86400:+.1f} days off",
            to_do="set the clocks of both machines; an old message is not accepted again",
        )


class _Version(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    version: int
