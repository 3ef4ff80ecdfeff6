"""Preparing raw data once, so that training only maps arrays.

What is the same for every dataset: items in parallel, progress, going on after a kill, what fails is listed and does
not stop the others, a manifest with parameters, versions and SHA-256, no mixing of two parameter sets in a folder,
and room on the disk known before starting. A dataset brings its `Preparation`.

While at work, ``preparing.jsonl`` has a first line with the parameters, then one line for each item that is done.
Each item's folder appears whole or not at all. `polyclinic.datasets.prepared` tells the form of the outcome.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from threading import Lock
from typing import Any

import platformdirs
from filelock import FileLock
from numpy.typing import NDArray

from polyclinic import __version__
from polyclinic.datasets.disk_room import require_room
from polyclinic.datasets.prepared import (
    MANIFEST,
    Prepared,
    PreparedItem,
    file_name,
    item_folder,
    read_manifest,
    require_same_parameters,
)
from polyclinic.datasets.prepared_files import save_array, sha256, stack_arrays, write_text
from polyclinic.errors import DatasetError, PolyclinicError

__all__ = ["Item", "Preparation", "Prepared", "PreparedItem", "ensure", "run_preparation"]

_JOURNAL = "preparing.jsonl"
_Record = dict[str, Any]  # of one item that is done: "id", "num_bytes", "found", "arrays"


@dataclass(frozen=True)
class Item:
    """One patient, scan, slide or image."""

    id: str  # its files are named by it
    num_bytes: tuple[int, ...] = ()  # sizes of its raw files: when they change, it is prepared anew
    facts: dict[str, Any] = field(default_factory=dict)  # JSON, into the manifest: center, split, spacing …


@dataclass(frozen=True)
class Preparation:
    """How a dataset's raw data become arrays.

    ``work`` makes one item's arrays by name, and facts found on the way (JSON). It runs in several threads at once.
    An item for which it raises DatasetError, or which cannot be read, is left out and listed.
    """

    dataset: str  # "fed_kits19"
    parameters: dict[str, Any]  # JSON; a folder made with others is refused
    items: Sequence[Item]
    work: Callable[[Item], tuple[dict[str, NDArray[Any]], dict[str, Any]]]
    libraries: tuple[str, ...] = ("numpy",)  # whose versions the manifest names
    bytes_an_item: int = 0  # about how many its arrays take, to know before starting whether the disk has room
    label: str = "Preparing"


def run_preparation(
    preparation: Preparation,
    to: str | Path,
    *,
    stacked: bool = False,
    workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """Prepares all items, or goes on where an interrupted preparation was; what is finished is checked by SHA-256.

    At any time, each worker holds one item's arrays.

    Args:
        to: the folder for the arrays.
        stacked: all items' arrays of a name in one file, for many small items of one shape; takes twice the room
            while at work.
        workers: items at a time; by default, one for each core.

    Returns:
        ``to``. Items that could not be prepared are under "failed" in the manifest; they are tried again each time.

    Raises:
        DatasetError: not one item can be prepared, there is no room, or ``to`` holds data that were prepared in
            another way.
    """
    return _run(preparation, Path(to), stacked, workers, show_progress, thorough=True)


def ensure(
    data_path: str | Path | None,
    make: Callable[[Path], Preparation],
    *,
    dataset: str,
    parameters: Mapping[str, Any],
    how_to_get_it: str,
    suffix: str = "",
    stacked: bool = False,
    to: str | Path | None = None,
    workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """The prepared folder for a path to raw or prepared data; raw data are prepared, once.

    Args:
        data_path: a prepared folder, which is returned as it is, or raw data.
        make: the preparation of the raw data at this path; called only when they are raw.
        parameters: those of the preparation, which prepared data must have.
        how_to_get_it: what to do without data, for the error's text.
        suffix: added to the name of the folder beside the raw data: one for each set of parameters in use.
        to: where to prepare; by default beside the raw data, in ``<name>-prepared<suffix>``, or in the user's cache
            folder when nothing can be written there.

    Raises:
        DatasetError: there are no data, or they were prepared with other parameters.
    """
    if data_path is None:
        raise DatasetError(f"{dataset} needs data, which do not ship with us", to_do=how_to_get_it)
    path = Path(data_path)
    if (path / MANIFEST).is_file():
        require_same_parameters(read_manifest(path, dataset)["parameters"], parameters, path)
        return path
    if not path.exists():
        raise DatasetError(f"there is no {path}", to_do=how_to_get_it)
    preparation = make(path)
    target = Path(to) if to is not None else _place_beside(path, suffix)
    # What is finished needs no writing, so this works also for who may only read there.
    if _finished(preparation, target, stacked) is None:
        _run(preparation, target, stacked, workers, show_progress, thorough=False)
    return target


def _run(
    preparation: Preparation, folder: Path, stacked: bool, workers: int | None, show_progress: bool, *, thorough: bool
) -> Path:
    """``thorough``: also looks at each byte of what is finished, and tries again what failed."""
    _require_distinct(preparation)
    num_workers = workers or os.cpu_count() or 1
    with _writable(folder), FileLock(folder / ".lock"):
        manifest = _finished(preparation, folder, stacked)
        # Another program may have finished it while this one waited for the lock.
        if manifest is not None and not thorough:
            return folder
        done = _done_before(preparation, folder, num_workers)
        if manifest is not None and not manifest["failed"] and _is_whole(manifest, done, folder):
            return folder
        _require_room(preparation, len(preparation.items) - len(done), folder, stacked)
        _begin(preparation, folder, done)
        failed = _work(preparation, folder, done, num_workers, show_progress)
        if len(failed) == len(preparation.items):
            name, why = next(iter(failed.items()))
            raise DatasetError(
                f"none of the {len(failed)} items of {preparation.dataset} could be prepared; {name}: {why}",
                to_do="mend or download the files again",
            )
        _finish(preparation, folder, done, failed, stacked)
    return folder


def _require_distinct(preparation: Preparation) -> None:
    if not preparation.items:
        raise DatasetError(
            f"there is nothing of {preparation.dataset} to prepare", to_do="check the folder of the raw data"
        )
    seen: dict[str, str] = {}
    for item in preparation.items:
        # Some file systems do not tell upper from lower case.
        name = file_name(item.id).casefold()
        if (other := seen.get(name)) is not None:
            raise DatasetError(
                f"two items of {preparation.dataset} have one name: {other!r} and {item.id!r}",
                to_do="give the folder that holds one copy of the data",
            )
        seen[name] = item.id


def _finished(preparation: Preparation, folder: Path, stacked: bool) -> dict[str, Any] | None:
    """The manifest, if the folder holds what came of just these items; refuses one that was made in another way."""
    if not (folder / MANIFEST).exists():
        return None
    manifest = read_manifest(folder, preparation.dataset)
    require_same_parameters(manifest["parameters"], preparation.parameters, folder)
    there = {entry["id"]: _canonical([entry["num_bytes"], entry["facts"]]) for entry in manifest["items"]}
    there |= {entry["id"]: _canonical([entry["num_bytes"], entry["facts"]]) for entry in manifest["failed"]}
    wanted = {item.id: _canonical([item.num_bytes, item.facts]) for item in preparation.items}
    return manifest if there == wanted and (manifest["stacked"] is not None) == stacked else None


def _done_before(preparation: Preparation, folder: Path, num_workers: int) -> dict[str, _Record]:
    """The items whose arrays are there, whole and of raw files that have not changed."""
    records: dict[str, _Record] = {}
    if (folder / MANIFEST).exists():
        records = {entry["id"]: entry for entry in read_manifest(folder, preparation.dataset)["items"]}
    for number, line in enumerate(_lines(folder / _JOURNAL)):
        if number == 0:
            require_same_parameters(line["parameters"], preparation.parameters, folder)
        else:
            records[line["id"]] = line
    known = [
        record
        for item in preparation.items
        if (record := records.get(item.id)) is not None
        and record["num_bytes"] == list(item.num_bytes)
        and record["arrays"]
    ]

    def is_whole(record: _Record) -> bool:
        place = item_folder(folder, record["id"])
        return all(sha256(place / f"{name}.npy") == array["sha256"] for name, array in record["arrays"].items())

    with ThreadPoolExecutor(num_workers) as pool:
        return {record["id"]: record for record, whole in zip(known, pool.map(is_whole, known), strict=True) if whole}


def _is_whole(manifest: Mapping[str, Any], done: Mapping[str, _Record], folder: Path) -> bool:
    """True if nothing of a finished folder is missing or damaged."""
    if manifest["stacked"] is None:
        return len(done) == len(manifest["items"])
    return all(sha256(folder / f"{name}.npy") == array["sha256"] for name, array in manifest["stacked"].items())


def _require_room(preparation: Preparation, num_todo: int, folder: Path, stacked: bool) -> None:
    needed = preparation.bytes_an_item * (num_todo + (len(preparation.items) if stacked else 0))
    require_room(folder, needed, f"preparing {num_todo} items of {preparation.dataset}")


def _begin(preparation: Preparation, folder: Path, done: Mapping[str, _Record]) -> None:
    """Writes the journal of what is kept, then removes what is not."""
    lines = [{"parameters": preparation.parameters}, *done.values()]
    write_text(folder / _JOURNAL, "".join(json.dumps(line) + "\n" for line in lines))
    # A folder with a manifest is complete, and this one is about to change.
    (folder / MANIFEST).unlink(missing_ok=True)
    kept = {item_folder(folder, item_id) for item_id in done}
    items = item_folder(folder, "x").parent
    items.mkdir(exist_ok=True)
    for path in items.iterdir():
        # Also of patients who are no longer among the raw data: they may have withdrawn their consent.
        if path not in kept:
            shutil.rmtree(path)


def _work(
    preparation: Preparation, folder: Path, done: dict[str, _Record], num_workers: int, show_progress: bool
) -> dict[str, str]:
    """Makes the items that are not done and adds them to ``done``; returns those that failed, and why."""
    # Here and not above: importing rich draws from Python's global random generator.
    from rich.progress import Progress

    todo = [item for item in preparation.items if item.id not in done]
    failed: dict[str, str] = {}
    noting = Lock()

    def make(item: Item) -> None:
        record = _make_item(preparation, item, folder)
        with noting:
            journal.write(json.dumps(record) + "\n")
            journal.flush()
            done[item.id] = record

    # Threads: reading, unpacking and array arithmetic run outside of Python's lock, and open files serve all.
    with (
        (folder / _JOURNAL).open("a", encoding="utf-8") as journal,
        Progress(disable=not show_progress or not todo) as progress,
        ThreadPoolExecutor(num_workers) as pool,
    ):
        task = progress.add_task(preparation.label, total=len(preparation.items), completed=len(done))
        jobs = {pool.submit(make, item): item for item in todo}
        try:
            for job in as_completed(jobs):
                # One bad file must not cost the others: it is reported at the end. A full disk is no bad file.
                if isinstance(err := job.exception(), DatasetError):
                    failed[jobs[job].id] = err.what
                elif err is not None:
                    raise err
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return dict(sorted(failed.items()))


def _make_item(preparation: Preparation, item: Item, folder: Path) -> _Record:
    """One item's arrays, written to a folder that is either whole or not there."""
    try:
        arrays, found = preparation.work(item)
    except (PolyclinicError, MemoryError):
        raise
    except OSError as err:
        if err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise DatasetError(f"its files cannot be read: {err.strerror or err}") from err
    except Exception as err:
        # Libraries that read medical files raise errors of any kind for a file that is damaged.
        raise DatasetError(f"{type(err).__name__}: {err}") from err
    place = item_folder(folder, item.id)
    unfinished = place.with_name(f"{place.name}.tmp")
    unfinished.mkdir()
    described = {
        name: save_array(unfinished / f"{name}.npy", [array], array.shape, array.dtype)
        for name, array in arrays.items()
    }
    unfinished.replace(place)
    return {"id": item.id, "num_bytes": list(item.num_bytes), "found": found, "arrays": described}


def _finish(
    preparation: Preparation, folder: Path, done: Mapping[str, _Record], failed: Mapping[str, str], stacked: bool
) -> None:
    """Writes the manifest, and before it the stacked arrays."""
    items = [item for item in preparation.items if item.id in done]
    entries = [done[item.id] | {"facts": item.facts} for item in items]
    manifest = {
        "dataset": preparation.dataset,
        "parameters": preparation.parameters,
        "versions": {name: version(name) for name in preparation.libraries}
        | {"polyclinic": __version__, "python": platform.python_version()},
        "stacked": stack_arrays(entries, folder) if stacked else None,
        "items": [entry | {"arrays": {}} for entry in entries] if stacked else entries,
        "failed": [
            {"id": item.id, "why": failed[item.id], "num_bytes": item.num_bytes, "facts": item.facts}
            for item in preparation.items
            if item.id in failed
        ],
    }
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    (folder / _JOURNAL).unlink()
    if stacked:
        shutil.rmtree(item_folder(folder, "x").parent)


def _place_beside(path: Path, suffix: str) -> Path:
    path = path.resolve()
    name = f"{path.name.removesuffix('.zip')}-prepared{suffix}"
    if (path.parent / name).exists() or os.access(path.parent, os.W_OK):
        return path.parent / name
    digest = hashlib.blake2b(str(path).encode(), digest_size=4).hexdigest()
    return Path(platformdirs.user_cache_dir("polyclinic")) / f"{name}-{digest}"


@contextmanager
def _writable(folder: Path) -> Iterator[None]:
    """Makes the folder; a failure to write in it, now or later, becomes a DatasetError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as err:
        raise DatasetError(
            f"prepared data cannot be written to {folder}: {err.strerror or err}",
            to_do="make room, or choose another folder; finished items are kept and not done again",
        ) from err


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal; the last one may have been cut off by a kill."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as opened:
        for line in opened:
            try:
                yield json.loads(line)
            except ValueError:
                return


def _canonical(content: Any) -> str:
    return json.dumps(content, sort_keys=True)
