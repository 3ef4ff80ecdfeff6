"""Who a party is: its key, the hub it belongs to, and the certificate authority that it pins.

::

    <folder>/key.seed         the NKey's seed; only its owner may read it, and it never leaves
    <folder>/identity.json    id, name, role, addresses of the hub, the hub's certificate authority

A node keeps this in ``hub/`` in its own folder; a researcher in ``.hubs/<hub>/`` beside the nodes of the machine. An
NKey is an Ed25519 key pair: the server checks it when a party connects, and the same key signs requests and replies.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import ssl
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nkeys

from polyclinic.errors import FederationError, MessageError, nearest
from polyclinic.federation.over_nats import subjects
from polyclinic.federation.over_nats.subjects import Role

if TYPE_CHECKING:
    from nacl.signing import SigningKey

FORMAT_VERSION = 1
SEED = "key.seed"
IDENTITY = "identity.json"
LOCAL = "local"  # in place of a hub: the nodes of this machine
_HUBS = ".hubs"
_CHOSEN = "chosen"


@dataclass(frozen=True)
class KeyPair:
    """An Ed25519 key pair, written as NATS does.

    Args:
        seed: ``SU…``, secret.
    """

    seed: str

    def __repr__(self) -> str:
        return f"KeyPair({self.public_key})"

    @classmethod
    def generate(cls) -> KeyPair:
        """A new one, from the system's entropy."""
        return cls(nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode("ascii"))

    @property
    def public_key(self) -> str:
        """``U…``, 56 characters."""
        return str(nkeys.from_seed(bytearray(self.seed, "ascii")).public_key.decode("ascii"))

    @property
    def raw_seed(self) -> bytes:
        """The 32 secret bytes that the key pair comes from."""
        return bytes(nkeys.decode_seed(bytearray(self.seed, "ascii"))[1])

    def sign(self, data: bytes) -> bytes:
        """The 64 bytes of the Ed25519 signature (RFC 8032) over exactly these bytes."""
        return bytes(self._signing_key.sign(data).signature)

    @cached_property
    def _signing_key(self) -> SigningKey:
        # Of nkeys, each signature would derive it anew.
        from nacl.signing import SigningKey

        return SigningKey(self.raw_seed)


def raw_public_key(public_key: str) -> bytes:
    """The 32 bytes of an Ed25519 public key that is written ``U…``.

    Raises:
        MessageError: if it is no public key of a user, or its check sum is wrong.
    """
    try:
        raw = base64.b32decode(public_key)
    except ValueError:
        raw = b""
    # One byte that says whose key it is, the key, and two bytes of check sum with the lower one first.
    good = len(raw) == 35 and raw[0] == nkeys.PREFIX_BYTE_USER
    if not good or int.from_bytes(raw[33:], "little") != nkeys.crc16(raw[:33]):
        # The text is not shown: it may be a seed that was pasted by mistake.
        raise MessageError("this is no public key", to_do="a public key has 56 characters and begins with U")
    return raw[1:33]


def is_signed(public_key: str, data: bytes, signature: bytes) -> bool:
    """Whether the holder of this key signed exactly these bytes.

    Raises:
        MessageError: if the key is none.
    """
    from nacl.exceptions import BadSignatureError
    from nacl.signing import VerifyKey

    try:
        VerifyKey(raw_public_key(public_key)).verify(data, signature)
    except (BadSignatureError, ValueError):
        return False
    return True


@dataclass(frozen=True)
class Identity:
    """A party of a hub.

    Args:
        party_id: unique at the hub, over nodes and researchers.
        name: what people read.
        hub_name: what people call the hub.
        urls: addresses of the hub's servers, ``tls://host:port``.
        ca: the certificate authority that the hub's certificate must come from, as PEM.
        keys: this party's own.
    """

    role: Role
    party_id: str
    name: str
    hub_name: str
    urls: tuple[str, ...]
    ca: str
    keys: KeyPair

    def save(self, folder: Path) -> None:
        """Writes it; an identity that was there before is replaced."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_secret(folder / SEED, self.keys.seed)
        fields = {key: value for key, value in asdict(self).items() if key != "keys"}
        text = json.dumps({"version": FORMAT_VERSION, **fields, "public_key": self.keys.public_key}, indent=1)
        partial = folder / f"{IDENTITY}.partial"
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(folder / IDENTITY)

    @classmethod
    def load(cls, folder: Path) -> Identity:
        """Reads it.

        Raises:
            FederationError: if there is none, or it cannot be read.
        """
        try:
            fields = json.loads((folder / IDENTITY).read_text(encoding="utf-8"))
            seed = (folder / SEED).read_text(encoding="ascii").strip()
            if fields["version"] != FORMAT_VERSION:
                raise ValueError(f"its format is {fields['version']}, not {FORMAT_VERSION}")
            return cls(
                role=Role(fields["role"]),
                party_id=fields["party_id"],
                name=fields["name"],
                hub_name=fields["hub_name"],
                urls=tuple(fields["urls"]),
                ca=fields["ca"],
                keys=KeyPair(seed),
            )
        except FileNotFoundError:
            raise FederationError(
                f"there is no identity at {folder}",
                to_do="join a hub first: polyclinic node join TOKEN, or polyclinic federation use TOKEN",
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as err:
            raise FederationError(
                f"the identity at {folder} cannot be read: {err}", to_do="join the hub again with a new token"
            ) from err

    def connection_options(self) -> dict[str, Any]:
        """The arguments for `nats.connect` that say where the hub is and who this is."""
        return connection_options(
            self.urls, self.ca, self.keys, inbox=subjects.inbox(self.party_id), name=f"{self.role} {self.party_id}"
        )


def connection_options(urls: tuple[str, ...], ca: str, keys: KeyPair, *, inbox: str, name: str) -> dict[str, Any]:
    """The arguments for `nats.connect`; only a server with a certificate of this authority is spoken to."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(cadata=ca)
    logging.getLogger("asyncio").addFilter(_no_word_of_closed_connections)
    return {
        "servers": list(urls),
        "tls": context,
        # Not a byte goes out in the clear, and a proxy on the way sees TLS and nothing else.
        "tls_handshake_first": True,
        "nkeys_seed_str": keys.seed,
        "inbox_prefix": inbox.encode("ascii"),
        "name": name,
    }


def _no_word_of_closed_connections(record: logging.LogRecord) -> bool:
    # nats-py takes the stream from plain to TLS in a way that makes asyncio warn at the end of every connection.
    return "eof_received() has no effect when using ssl" not in record.msg


def node_identity_folder(node_folder: Path) -> Path:
    """Where a node keeps its identity."""
    return node_folder / "hub"


def known_hubs(place: Path) -> Mapping[str, Path]:
    """The hubs that a researcher of this machine belongs to: folders of identities, by the hub's id."""
    return {path.parent.name: path.parent for path in sorted((place / _HUBS).glob(f"*/{IDENTITY}"))}


def hub_folder(place: Path, hub_id: str) -> Path:
    """Where a researcher keeps its identity at a hub."""
    return place / _HUBS / subjects.token(hub_id)


def chosen_hub(place: Path) -> Identity | None:
    """The hub that experiments of this machine use (``polyclinic federation use``); None: the nodes of this machine.

    Raises:
        FederationError: if the identity there cannot be read.
    """
    folder = chosen_hub_folder(place)
    return None if folder is None else Identity.load(folder)


def chosen_hub_folder(place: Path) -> Path | None:
    """The folder of that identity; None: the nodes of this machine."""
    try:
        name = (place / _HUBS / _CHOSEN).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    return hub_folder(place, name) if name else None


def choose_hub(place: Path, hub_id: str | None) -> None:
    """Makes experiments of this machine use this hub; None: the nodes of this machine.

    Raises:
        FederationError: if nobody on this machine has joined it.
    """
    known = known_hubs(place)
    if hub_id is not None and hub_id not in known:
        raise FederationError(
            f"no researcher of this machine belongs to a hub {hub_id!r}",
            to_do=f"{nearest(hub_id, [*known, LOCAL])}; join with the token from the hub's operator",
        )
    (place / _HUBS).mkdir(parents=True, exist_ok=True, mode=0o700)
    (place / _HUBS / _CHOSEN).write_text(hub_id or "", encoding="utf-8")


def write_secret(path: Path, text: str) -> None:
    """Writes a file that only this user may read, at once or not at all."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
