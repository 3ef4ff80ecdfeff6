"""A file of tensors that is not to be trusted, read strictly, in pieces, and without torch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import MessageError
from polyclinic.tensors import DTYPES, MAX_HEADER_BYTES, read_entries

# A multiple of every item size; larger pieces fall out of the processor's caches between check and digest.
PIECE_BYTES = 1 << 20

# Where the exponent's bits are all ones, the value is infinite or no number. numpy has no bfloat16.
_EXPONENTS = {"F16": 0x7C00, "BF16": 0x7F80}


@dataclass(frozen=True)
class Left:
    """A tensor that left.

    Args:
        dtype: as in a safetensors file, for example F32.
        bytes: of its data.
        sha256: of its data, hexadecimal.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """A tensor in a file; ``begin``: the place of its first byte in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    num_bytes: int


class UnfitValues(Exception):
    """What is wrong with a tensor's values."""


def read_header(path: Path) -> dict[str, Entry]:
    """The tensors of a safetensors file, by name; their values are not looked at.

    Raises:
        MessageError: it is no well-formed one.
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(MAX_HEADER_BYTES, size - 8):
            raise MessageError(f"a tensor header does not fit in a file of {size} bytes")
        entries = read_entries(file.read(length), size - 8 - length)
    return {name: _entry(entry, 8 + length) for name, entry in entries.items()}


def copy_checked(
    source: Path, entries: Mapping[str, Entry], names: Collection[str], target: Path, *, finite: bool, at_least_0: bool
) -> tuple[Left, ...]:
    """Writes some tensors of a file to another one, looking at each value on the way; memory stays flat.

    The file is read, and not mapped, because whoever shrinks a mapped file kills the process that looks at it; and what
    is written is exactly what was looked at.

    Args:
        entries: of the source.
        finite: floating-point values must be so.
        at_least_0: integers must be so.

    Raises:
        UnfitValues: names the tensor. The target is not there then, as after any other error.
        OSError: a file cannot be read or written.
    """
    order = sorted(names, key=lambda name: entries[name].begin)
    left = []
    try:
        with source.open("rb") as file, target.open("wb") as out:
            out.write(_header(entries, order))
            for name in order:
                entry, digest = entries[name], hashlib.sha256()
                for piece in _pieces(file, entry, name):
                    _look(piece, entry.dtype, name, finite=finite, at_least_0=at_least_0)
                    digest.update(piece)
                    out.write(piece)
                left.append(Left(name, entry.shape, entry.dtype, entry.num_bytes, digest.hexdigest()))
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return tuple(left)


def _entry(entry: Mapping[str, Any], start: int) -> Entry:
    begin, end = entry["data_offsets"]
    return Entry(entry["dtype"], tuple(entry["shape"]), start + begin, end - begin)


def _header(entries: Mapping[str, Entry], order: list[str]) -> bytes:
    """Written anew, so that nothing else travels with the tensors: no blanks, no metadata, no order of names."""
    described: dict[str, Any] = {}
    end = 0
    for name in order:
        entry = entries[name]
        offsets = [end, end + entry.num_bytes]
        described[name] = {"dtype": entry.dtype, "shape": list(entry.shape), "data_offsets": offsets}
        end += entry.num_bytes
    header = json.dumps(described, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def _pieces(file: BinaryIO, entry: Entry, name: str) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(min(PIECE_BYTES, entry.num_bytes)))
    file.seek(entry.begin)
    left = entry.num_bytes
    while left:
        piece = buffer[: min(len(buffer), left)]
        if file.readinto(piece) != len(piece):  # type: ignore[attr-defined]
            raise UnfitValues(f"{name}: its file became shorter")
        yield piece
        left -= len(piece)


def _look(piece: memoryview, dtype: str, name: str, *, finite: bool, at_least_0: bool) -> None:
    if dtype == "BOOL":
        if _as(piece, "uint8").max(initial=0) > 1:
            raise UnfitValues(f"{name}: it is boolean and holds other bytes than 0 and 1")
    elif dtype in ("F32", "F64", *_EXPONENTS):
        if finite and not _is_finite(piece, dtype):
            raise UnfitValues(f"{name}: not all of its values are finite")
    elif at_least_0 and _as(piece, DTYPES[dtype][0]).min(initial=0) < 0:
        raise UnfitValues(f"{name}: it counts, and is negative")


def _is_finite(piece: memoryview, dtype: str) -> bool:
    if dtype in _EXPONENTS:
        exponent = np.uint16(_EXPONENTS[dtype])
        return not bool(((_as(piece, "uint16") & exponent) == exponent).any())
    return bool(np.isfinite(_as(piece, DTYPES[dtype][0])).all())


def _as(piece: memoryview, dtype: str) -> NDArray[Any]:
    return np.frombuffer(piece, dtype=np.dtype(dtype).newbyteorder("<"))
