"""Model bytes through the hub: chunks of about 1 MB, named by the SHA-256 of the whole, a few under way at a time.

A chunk that is acknowledged is stored; after a broken connection only the others are sent again. What arrives is
believed only if its SHA-256 is the one in the signed envelope.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path

from polyclinic.errors import MessageError
from polyclinic.federation.over_nats.connection import Link
from polyclinic.federation.over_nats.signing import Payload
from polyclinic.federation.over_nats.subjects import CHUNK_BYTES, PAYLOADS

MAX_BYTES = 8 << 30
# Tensors up to this size travel in their message: a small model costs one message a node and direction.
INLINE_BYTES = 256 << 10
# Enough that the line is never idle; few enough that a slow line answers within `connection.ANSWER_SECONDS`.
_UNDER_WAY = 6

Part = bytes | memoryview
SubjectOf = Callable[[int], str]


def describe(parts: Sequence[Part]) -> Payload:
    """Size and SHA-256 of the parts' concatenation.

    Raises:
        MessageError: it is larger than travels.
    """
    size = sum(map(len, parts))
    if size > MAX_BYTES:
        raise MessageError(
            f"tensors of {size / 1e6:,.0f} MB, at most {MAX_BYTES / 1e6:,.0f} MB travel",
            to_do="send fewer or smaller tensors; local_layers stay at the nodes",
        )
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return Payload(sha256=digest.hexdigest(), size=size)


def chunks(parts: Sequence[Part]) -> Iterator[bytes]:
    """The concatenation of the parts in pieces of `CHUNK_BYTES`, the last one shorter; each is copied once."""
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
                yield b"".join(piece)
                piece, room = [], CHUNK_BYTES
    if piece:
        yield b"".join(piece)


async def upload(link: Link, subject_of: SubjectOf, parts: Sequence[Part]) -> None:
    """Stores the parts' concatenation at the hub.

    Args:
        subject_of: the subject of each chunk, by its number.

    Raises:
        FederationError: the hub refuses it, for its disk is full.
    """
    left = iter(enumerate(chunks(parts)))

    async def work() -> None:
        for number, data in left:
            await link.store(subject_of(number), data)

    await _side_by_side(work)


async def download(link: Link, subject_of: SubjectOf, payload: Payload, path: Path) -> None:
    """Writes what was uploaded to a file.

    Raises:
        MessageError: it is too large, not there any more, or not what was signed. No file is left then.
    """
    if payload.size > MAX_BYTES:
        raise MessageError(f"tensors of {payload.size / 1e6:,.0f} MB are announced, which is more than travels")
    left = iter(range(-(-payload.size // CHUNK_BYTES)))
    try:
        with path.open("wb") as file:

            async def work() -> None:
                for number in left:
                    data = await link.stored(PAYLOADS, subject_of(number))
                    if not data:
                        raise MessageError(
                            "the tensors of this message are not at the hub any more", to_do="the round may be over"
                        )
                    os.pwrite(file.fileno(), data, number * CHUNK_BYTES)

            await _side_by_side(work)
        if path.stat().st_size != payload.size or await asyncio.to_thread(_sha256, path) != payload.sha256:
            raise MessageError(
                "tensors that are not what their sender signed",
                to_do="try again; if it happens again, somebody changes data at the hub: ask its operator",
            )
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


async def _side_by_side(work: Callable[[], Coroutine[None, None, None]]) -> None:
    """Runs some of the same workers; the first error ends all of them, and is the one that is raised."""
    tasks = [asyncio.ensure_future(work()) for _ in range(_UNDER_WAY)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
