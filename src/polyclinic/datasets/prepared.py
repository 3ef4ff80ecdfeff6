"""Reading prepared data: a folder that `polyclinic.datasets.preparation` made.

``manifest.json`` says what is there: "dataset", "parameters", "versions", "items" (each with "id", "num_bytes" of
its raw files, "facts" known before, "found" on the way, and "arrays": dtype, shape, SHA-256), "failed" (id and why)
and "stacked" (null, or the arrays that hold a row for each item). It is written last: a folder with a manifest is
complete. Arrays are ``items/<id>/<name>.npy``, or ``<name>.npy`` when stacked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polyclinic.errors import DatasetError

MANIFEST = "manifest.json"
_ITEMS = "items"
_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.(tmp)?", re.IGNORECASE)


@dataclass(frozen=True)
class PreparedItem:
    """One patient, scan, slide or image that was prepared; ``facts`` are those known before and those found."""

    id: str
    facts: Mapping[str, Any]


class Prepared:
    """The items of a prepared folder and their arrays, which are mapped: nothing is read until it is used.

    Args:
        folder: a folder made by ``polyclinic dataset prepare``.
        dataset: whose data it must hold, for example "fed_kits19".
        parameters: those it must have been prepared with.

    Raises:
        DatasetError: no such folder, or it holds something else.
    """

    def __init__(
        self, folder: str | Path, *, dataset: str | None = None, parameters: Mapping[str, Any] | None = None
    ) -> None:
        self.folder = Path(folder)
        self._wanted = dataset, parameters
        manifest = read_manifest(self.folder, dataset)
        if parameters is not None:
            require_same_parameters(manifest["parameters"], parameters, self.folder)
        self.parameters: dict[str, Any] = manifest["parameters"]
        self.items: tuple[PreparedItem, ...] = tuple(
            PreparedItem(entry["id"], entry["facts"] | entry["found"]) for entry in manifest["items"]
        )
        self.failed: dict[str, str] = {entry["id"]: entry["why"] for entry in manifest["failed"]}
        self._rows = {item.id: row for row, item in enumerate(self.items)}
        self._stacked: dict[str, Any] | None = manifest["stacked"]
        self._arrays: list[dict[str, Any]] = [entry["arrays"] for entry in manifest["items"]]
        self._open: dict[str, np.memmap[Any, Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        # Mapped arrays would be pickled as a copy of all their bytes; a worker process maps the files itself.
        return _reopen, (self.folder, *self._wanted)

    def array(self, item_id: str, name: str) -> np.ndarray[Any, Any]:
        """One item's array of this name, as a read-only map of its file.

        Raises:
            DatasetError: no such item or array, or the file is not the one that was written.
        """
        row = self._rows.get(item_id)
        if row is None:
            why = self.failed.get(item_id)
            raise DatasetError(
                f"{self.folder} holds no {item_id}" + (f", it could not be prepared: {why}" if why else ""),
                to_do="prepare the data again once its raw files are there and whole",
            )
        if self._stacked is not None:
            return self.stacked(name)[row]  # type: ignore[no-any-return]
        return self._map(self.folder / _ITEMS / file_name(item_id) / f"{name}.npy", _described(self._arrays[row], name))

    def stacked(self, name: str) -> np.memmap[Any, Any]:
        """All items' arrays of this name, (n, ...) in the order of ``items``; of a folder that was prepared stacked."""
        if name not in self._open:
            self._open[name] = self._map(self.folder / f"{name}.npy", _described(self._stacked or {}, name))
        return self._open[name]

    def _map(self, path: Path, expected: Mapping[str, Any]) -> np.memmap[Any, Any]:
        try:
            # An empty array cannot be mapped. And of a Path numpy looks up every folder above, each time.
            array = np.load(str(path), mmap_mode="r" if 0 not in expected["shape"] else None)
        except (OSError, ValueError, EOFError) as err:
            raise DatasetError(
                f"the prepared array {path} cannot be read: {err}",
                to_do="prepare the data again: what is damaged is made anew",
            ) from err
        if list(array.shape) != expected["shape"] or array.dtype.str != expected["dtype"]:
            raise DatasetError(
                f"the prepared array {path} does not fit its manifest: {array.shape} {array.dtype}, "
                f"not {tuple(expected['shape'])} {np.dtype(expected['dtype'])}",
                to_do="prepare the data again: what is damaged is made anew",
            )
        return array  # type: ignore[no-any-return]


def read_manifest(folder: Path, dataset: str | None = None) -> dict[str, Any]:
    """What ``manifest.json`` of a prepared folder says.

    Raises:
        DatasetError: there is none, it is not ours, or not of this dataset.
    """
    manifest = read_json(folder / MANIFEST)
    kind = manifest.get("dataset")
    if dataset is not None and kind != dataset:
        raise DatasetError(
            f"{folder / MANIFEST} is not of prepared {dataset} data" + (f" but of {kind}" if kind else ""),
            to_do=f"give a folder made by  polyclinic dataset prepare {dataset}",
        )
    if not {"parameters", "items", "failed", "stacked"} <= manifest.keys():
        raise _of_another_version(folder)
    return manifest


def _of_another_version(folder: Path) -> DatasetError:
    return DatasetError(
        f"{folder} was prepared by another version of Polyclinic",
        to_do="remove this folder and prepare the data again, or prepare them in another folder",
    )


def require_same_parameters(there: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Raises DatasetError if a folder was, or is being, prepared with other parameters.

    "format" among them is the number of the way of preparing, which a new version of the program may raise.
    """
    wanted = json.loads(json.dumps(wanted))
    if there.get("format") != wanted.get("format"):
        raise _of_another_version(folder)
    keys = [*wanted, *(key for key in there if key not in wanted)]
    differ = [
        f"{key}: {there.get(key)!r}, not {wanted.get(key)!r}" for key in keys if there.get(key) != wanted.get(key)
    ]
    if differ:
        raise DatasetError(
            f"{folder} holds data that were prepared in another way ({'; '.join(differ)})",
            to_do="choose another folder or remove this one; or say flamby_compatible (--flamby-compatible) and other "
            "options as when it was made",
        )


def file_name(item_id: str) -> str:
    """A name for an item's folder on any file system: its id, or a cleaned id and a hash when that is not safe."""
    if _SAFE.fullmatch(item_id) and not _RESERVED.fullmatch(item_id):
        return item_id
    digest = hashlib.blake2b(item_id.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '_', item_id)[:60].lstrip('_-') or 'item'}-{digest}"


def item_folder(folder: Path, item_id: str) -> Path:
    return folder / _ITEMS / file_name(item_id)


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as err:
        raise DatasetError(
            f"{path} cannot be read: {err}", to_do="remove its folder and prepare the data again"
        ) from err
    return content if isinstance(content, dict) else {}


def _described(arrays: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    if name not in arrays:
        raise DatasetError(
            f"no array {name!r} was prepared; there are {', '.join(sorted(arrays)) or 'none'}",
            to_do="use one of these names",
        )
    found: Mapping[str, Any] = arrays[name]
    return found


def _reopen(folder: Path, dataset: str | None, parameters: Mapping[str, Any] | None) -> Prepared:
    return Prepared(folder, dataset=dataset, parameters=parameters)
