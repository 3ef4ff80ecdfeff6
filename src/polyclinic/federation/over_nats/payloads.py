"""Model bytes through the hub: encrypted chunks of about 1 MB under the payload's name, a few under way at a time.

A chunk that is acknowledged is stored; after a broken connection only the others are sent again, and a program that
was killed asks which of them are there. What arrives is believed only if it is what the signed envelope names.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from polyclinic.errors import FederationError, MessageError
from polyclinic.federation.over_nats.connection import Link
from polyclinic.federation.over_nats.encryption import TAG_BYTES, Lock
from polyclinic.federation.over_nats.signing import Payload
from polyclinic.federation.over_nats.subjects import CHUNK_BYTES, PAYLOADS

MAX_BYTES = 8 << 30
_REPLICA_WAITS = (0.1, 0.3, 1.0, 3.0)  # seconds
# Tensors up to this size travel in their message: a small model costs one message a node and direction.
INLINE_BYTES = 256 << 10
# Enough that the line is never idle; few enough that a slow line answers within `connection.ANSWER_SECONDS`.
_UNDER_WAY = 6
# Who cannot learn what is stored already sends everything: the desk may be away.
_ASK_SECONDS = 5.0

Part = bytes | memoryview
SubjectOf = Callable[[int], str]


def describe(parts: Sequence[Part], salt: bytes) -> Payload:
    """Size of the parts' concatenation, and the SHA-256 of the salt and it: the payload's name.

    Raises:
        MessageError: it is larger than travels.
    """
    size = sum(map(len, parts))
    if size > MAX_BYTES:
        raise MessageError(
            f"tensors of {size / 1e6:,.0f} MB, at most {MAX_BYTES / 1e6:,.0f} MB travel",
            to_do="send fewer or smaller tensors; local_layers stay at the nodes",
        )
    digest = hashlib.sha256(salt)
    for part in parts:
        digest.update(part)
    return Payload(sha256=digest.hexdigest(), size=size)


def chunks(parts: Sequence[Part]) -> Iterator[Part]:
    """The concatenation of the parts in pieces of `CHUNK_BYTES`, the last one shorter; copied only where parts meet."""
    piece: list[Part] = []
    room = CHUNK_BYTES
    for part in parts:
        start = 0
        while start < len(part):
            taken = part[start : start + room]
            piece.append(taken)
            start += len(taken)
            room -= len(taken)
            if not room:
                yield piece[0] if len(piece) == 1 else b"".join(piece)
                piece, room = [], CHUNK_BYTES
    if piece:
        yield b"".join(piece)


async def stored_chunks(link: Link, question: dict[str, Any]) -> Collection[int]:
    """The numbers of the chunks that are at the hub already; ``question``: as for the desk's ``chunks``."""
    try:
        answer = await asyncio.wait_for(link.ask_desk("chunks", question), _ASK_SECONDS)
    except (FederationError, TimeoutError):
        return ()
    return frozenset(answer["chunks"])


async def upload(
    link: Link, subject_of: SubjectOf, parts: Sequence[Part], key: bytes, there: Collection[int] = ()
) -> None:
    """Stores the parts' concatenation at the hub.

    Args:
        subject_of: the subject of each chunk, by its number.
        key: a key that encrypts nothing else than exactly these parts.
        there: the chunks that are stored already.

    Raises:
        FederationError: the hub refuses it, for its disk is full.
    """
    cipher = AESGCM(key)
    left = iter(enumerate(chunks(parts)))

    async def work() -> None:
        for number, data in left:
            if number not in there:
                await link.store(subject_of(number), cipher.encrypt(_nonce(number), data, None))

    await _side_by_side(work)


async def download(link: Link, subject_of: SubjectOf, payload: Payload, lock: Lock, path: Path) -> None:
    """Writes what was uploaded to a file.

    Raises:
        MessageError: it is too large, not there any more, or not what was signed. No file is left then.
    """
    if payload.size > MAX_BYTES:
        raise MessageError(f"tensors of {payload.size / 1e6:,.0f} MB are announced, which is more than travels")
    cipher, digest = AESGCM(lock.key), hashlib.sha256(lock.salt)
    left = iter(range(-(-payload.size // CHUNK_BYTES)))
    early: set[int] = set()  # what cannot be hashed yet: chunks before it are still under way
    hashed = 0

    async def work() -> None:
        nonlocal hashed
        for number in left:
            sealed = await link.stored(PAYLOADS, subject_of(number))
            for wait in _REPLICA_WAITS:
                if sealed:
                    break
                # In a cluster any server may answer, also one that is a moment behind.
                await asyncio.sleep(wait)
                sealed = await link.stored(PAYLOADS, subject_of(number))
            if not sealed:
                raise MessageError(
                    "the tensors of this message are not at the hub any more", to_do="the round may be over"
                )
            os.pwrite(file.fileno(), _opened(cipher, number, sealed), number * CHUNK_BYTES)
            early.add(number)
            while hashed in early:
                digest.update(os.pread(file.fileno(), CHUNK_BYTES, hashed * CHUNK_BYTES))
                early.remove(hashed)
                hashed += 1

    try:
        with path.open("w+b") as file:
            await _side_by_side(work)
        if path.stat().st_size != payload.size or digest.hexdigest() != payload.sha256:
            raise _changed()
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "little")


def _opened(cipher: AESGCM, number: int, sealed: bytes) -> bytes:
    if len(sealed) > CHUNK_BYTES + TAG_BYTES:
        raise _changed()
    try:
        return cipher.decrypt(_nonce(number), sealed, None)
    except InvalidTag:
        raise _changed() from None


def _changed() -> MessageError:
    return MessageError(
        "tensors that are not what their sender signed",
        to_do="try again; if it happens again, somebody changes data at the hub: ask its operator",
    )


async def _side_by_side(work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Runs some of the same workers; the first error ends all of them, and is the one that is raised."""
    tasks = [asyncio.ensure_future(work()) for _ in range(_UNDER_WAY)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
