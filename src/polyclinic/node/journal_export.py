"""A journal as files that can be kept elsewhere, and checked without Polyclinic.

::

    journal.jsonl               the rows' lines: the SHA-256 of each line is the next one's "previous"
    journal.jsonl.sha256        the SHA-256 of that file, as `sha256sum` writes it
    journal.jsonl.sha256.sig    the Ed25519 signature over that file, 64 bytes
    journal.jsonl.key.pem       the node's public key

Without a key there are the first two only.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Engine

from polyclinic.errors import ConfigError
from polyclinic.node.journal_check import read

# What stands before the 32 bytes of an Ed25519 public key in a SubjectPublicKeyInfo (RFC 8410, section 4).
_SPKI = bytes.fromhex("302a300506032b6570032100")


def export(
    engine: Engine, path: Path, *, sign: Callable[[bytes], bytes] | None = None, raw_public_key: bytes = b""
) -> list[Path]:
    """Writes the files; those with the signature and the key only where there is a key.

    Args:
        raw_public_key: the 32 bytes of the key that signs.

    Returns:
        What was written.

    Raises:
        ConfigError: there is such a file already.
    """
    sums, signature, key = (path.with_name(path.name + end) for end in (".sha256", ".sha256.sig", ".key.pem"))
    for file in (path, sums, signature, key):
        if file.exists():
            raise ConfigError(f"{file} exists already", to_do="choose another name with --to, or move it away")
    found = hashlib.sha256()
    with path.open("xb") as out:
        for row in read(engine):
            line = row.line.encode() + b"\n"
            found.update(line)
            out.write(line)
    text = f"{found.hexdigest()}  {path.name}\n".encode()
    sums.write_bytes(text)
    if sign is None:
        return [path, sums]
    signature.write_bytes(sign(text))
    encoded = base64.b64encode(_SPKI + raw_public_key).decode()
    key.write_text(f"-----BEGIN PUBLIC KEY-----\n{encoded}\n-----END PUBLIC KEY-----\n", encoding="ascii")
    return [path, sums, signature, key]
