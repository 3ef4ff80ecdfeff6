"""Writing the files of prepared data: arrays with their SHA-256, and texts that are whole or not there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.prepared import item_folder
from polyclinic.errors import DatasetError


def save_array(
    path: Path, rows: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> dict[str, Any]:
    """Writes a .npy file of this shape from its rows, or from the one whole array; returns "dtype", "shape", "sha256".

    It is written and not mapped: a full disk is then an OSError, where a map would kill the process.
    """
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    with path.open("wb") as opened:
        out = _Hashing(opened)
        np.lib.format.write_array_header_1_0(out, header)
        for row in rows:
            # Bytes in place: a copy would double the memory that an item takes.
            out.write(np.ascontiguousarray(row, dtype).reshape(-1).view(np.uint8).data)
    return {"dtype": dtype.str, "shape": list(shape), "sha256": out.digest.hexdigest()}


def stack_arrays(entries: Sequence[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Joins the items' arrays of each name to one file, row by row."""
    first = entries[0]
    for entry in entries:
        for name in first["arrays"].keys() | entry["arrays"].keys():
            form, other = (e["arrays"].get(name, {}) for e in (first, entry))
            if (form.get("shape"), form.get("dtype")) != (other.get("shape"), other.get("dtype")):
                raise DatasetError(
                    f"arrays {name!r} of {first['id']} and {entry['id']} differ in form and cannot be stacked: "
                    f"{form.get('shape')} {form.get('dtype')} and {other.get('shape')} {other.get('dtype')}",
                    to_do="report this: the dataset's preparation must give every item the same shapes",
                )
    stacked: dict[str, Any] = {}
    for name, form in first["arrays"].items():
        path = folder / f"{name}.npy"
        unfinished = path.with_name(f"{path.name}.tmp")
        rows = (np.load(item_folder(folder, entry["id"]) / f"{name}.npy") for entry in entries)
        stacked[name] = save_array(unfinished, rows, (len(entries), *form["shape"]), np.dtype(form["dtype"]))
        unfinished.replace(path)
    return stacked


def sha256(path: Path) -> str:
    """Of a file; "" when it cannot be read."""
    try:
        with path.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError:
        return ""


def write_text(path: Path, content: str) -> None:
    unfinished = path.with_name(f"{path.name}.tmp")
    unfinished.write_text(content, encoding="utf-8")
    unfinished.replace(path)


class _Hashing:
    """A file to write to that takes the SHA-256 of what passes."""

    def __init__(self, out: IO[bytes]) -> None:
        self._out = out
        self.digest = hashlib.sha256()

    def write(self, content: bytes | memoryview) -> int:
        self.digest.update(content)
        return self._out.write(content)
