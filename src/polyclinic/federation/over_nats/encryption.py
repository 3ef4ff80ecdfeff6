"""What only sender and recipient can read, though it lies at the hub.

Bodies of frames are encrypted from one party to the other (X25519, XSalsa20 and Poly1305, the `Box` of NaCl) with keys
that come from both parties' Ed25519 keys, as in RFC 7748 and in libsodium's `crypto_sign_ed25519_pk_to_curve25519`.

Tensors that travel apart are encrypted once for all recipients, each chunk with AES-256-GCM and its number as the
nonce. Each payload has a key of its own, derived from the sender's secret seed and the payload's name, so that a
program that was killed finds the same bytes under the same name, and uploads only what is missing. The name is the
SHA-256 of a secret salt and the bytes: without the salt, nobody can try whether a payload is one that they know.
"""

from __future__ import annotations

import functools
import hmac
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyclinic.errors import MessageError
from polyclinic.federation.over_nats.identity import KeyPair, raw_public_key

if TYPE_CHECKING:
    from nacl.public import Box

_BYTES = 32
LOCK_BYTES = 2 * _BYTES
TAG_BYTES = 16


@dataclass(frozen=True)
class Lock:
    """What opens a payload, and shows that it is the one that was signed. It travels in the encrypted body."""

    salt: bytes
    key: bytes

    def __repr__(self) -> str:
        return "Lock(...)"

    def to_bytes(self) -> bytes:
        """64 bytes."""
        return self.salt + self.key

    @classmethod
    def from_bytes(cls, data: bytes) -> Lock:
        """The lock in exactly these bytes.

        Raises:
            MessageError: they are not 64.
        """
        if len(data) != LOCK_BYTES:
            raise MessageError(f"the key of tensors that travel apart has {len(data)} bytes, not {LOCK_BYTES}")
        return cls(data[:_BYTES], data[_BYTES:])


def salt_of(keys: KeyPair, purpose: str) -> bytes:
    """32 secret bytes; the same again for the same sender and purpose."""
    return hmac.digest(keys.raw_seed, b"polyclinic payload salt\n" + purpose.encode(), "sha256")


def key_of(keys: KeyPair, name: str) -> bytes:
    """The 32 bytes of the key of one payload; the same again for the same sender and name."""
    return hmac.digest(keys.raw_seed, b"polyclinic payload key\n" + name.encode(), "sha256")


def encrypt(data: bytes, keys: KeyPair, to: str) -> bytes:
    """What only the holder of the public key ``to`` can read, and the sender; 40 bytes longer.

    Raises:
        MessageError: ``to`` is no public key.
    """
    return bytes(_box(keys, to).encrypt(data))


def decrypt(data: bytes, keys: KeyPair, sender: str) -> bytes:
    """What the holder of the public key ``sender`` has encrypted for these keys.

    Raises:
        MessageError: it was changed on its way, or is for somebody else.
    """
    from nacl.exceptions import CryptoError

    try:
        return _box(keys, sender).decrypt(data)
    except (CryptoError, ValueError):
        raise MessageError(
            "a message that cannot be decrypted",
            to_do="if this party or the other one has joined anew, both must know the other's new key",
        ) from None


@functools.lru_cache(maxsize=1024)
def _box(keys: KeyPair, public_key: str) -> Box:
    from nacl.public import Box
    from nacl.signing import SigningKey, VerifyKey

    mine = SigningKey(keys.raw_seed).to_curve25519_private_key()
    return Box(mine, VerifyKey(raw_public_key(public_key)).to_curve25519_public_key())
