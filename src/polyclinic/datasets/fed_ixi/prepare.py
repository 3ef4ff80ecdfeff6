"""IXI: from the NIfTI files as published to arrays that are mapped at training.

Each volume, 83 x 44 x 55 voxels, is brought to 48 x 60 x 48. The image is averaged over areas and standardised (mean
0, population standard deviation 1 over the volume). A voxel of the mask is brain if its middle lies in the brain,
which keeps the volume within one per cent; half of its area would not: one axis grows, so exact halves are frequent.

The outcome is a folder with ``images.npy`` (n, 1, 48, 60, 48) float32, ``labels.npy`` (n, 48, 60, 48) uint8 and
``manifest.json``, which is written last: a folder with a manifest is complete. Until then, each finished subject
is a file in ``parts/``, so that a preparation that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch.nn import functional as F

from polyclinic import __version__
from polyclinic.datasets.fed_ixi.raw import read_volume
from polyclinic.datasets.fed_ixi.subjects import CENTERS, HOW_TO_GET_IT, RawData, Subject, open_raw
from polyclinic.errors import DatasetError

SHAPE = (48, 60, 48)
IMAGES, LABELS, MANIFEST = "images.npy", "labels.npy", "manifest.json"
_PARTS, _STARTED = "parts", "preparing.json"


def prepare(
    source: str | Path,
    to: str | Path,
    *,
    flamby_compatible: bool = False,
    workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """Prepares raw IXI data, or goes on with a preparation that was interrupted.

    Args:
        source: the unzipped folder or the zip, which is read in place.
        to: the folder for the arrays; 0.7 MB a subject, and as much again while at work.
        flamby_compatible: masks as in FLamby, brain only where the whole voxel is, which erodes them.
        workers: subjects at a time; by default, one for each core.

    Returns:
        ``to``. Subjects that cannot be read are left out and listed under "failed" in the manifest.

    Raises:
        DatasetError: no subject can be read, or ``to`` holds data that were prepared in another way.
    """
    raw = open_raw(Path(source))
    folder = Path(to)
    parameters = _parameters(flamby_compatible)
    with _writable(folder), FileLock(folder / ".lock"):
        for name in (MANIFEST, _STARTED):
            if (folder / name).exists():
                _require_same(_read_json(folder / name)["parameters"], parameters, folder)
        if _is_finished(folder, raw) and not _damaged(folder):
            return folder
        # A folder with a manifest is complete, and this one is about to change.
        (folder / MANIFEST).unlink(missing_ok=True)
        _write_json(folder / _STARTED, {"parameters": parameters})
        failed = _make_parts(raw, folder / _PARTS, flamby_compatible, workers, show_progress)
        if len(failed) == len(raw.subjects):
            subject, why = next(iter(failed.items()))
            raise DatasetError(
                f"none of the {len(failed)} subjects in {source} could be prepared; {subject}: {why}",
                to_do="mend or download the files again",
            )
        _assemble(raw.subjects, failed, folder, parameters)
    return folder


def ensure_prepared(
    data_path: str | Path | None,
    *,
    to: str | Path | None = None,
    flamby_compatible: bool = False,
    workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """The prepared folder for a path to raw or prepared data; raw data are prepared, once.

    Args:
        data_path: a prepared folder, which is returned as it is, or raw data (folder or zip).
        to: where to prepare raw data; by default beside them, in ``<name>-prepared``, or in the user's cache folder
            when nothing can be written there.

    Raises:
        DatasetError: there are no data, or they were prepared in the other way (see ``flamby_compatible``).
    """
    if data_path is None:
        raise DatasetError("Fed-IXI needs data, which do not ship with us", to_do=HOW_TO_GET_IT)
    path = Path(data_path)
    if (path / MANIFEST).is_file():
        _require_same(read_manifest(path)["parameters"], _parameters(flamby_compatible), path)
        return path
    if not path.exists():
        raise DatasetError(f"there is no {path}", to_do=HOW_TO_GET_IT)
    target = Path(to) if to is not None else _place_beside(path, flamby_compatible)
    if _is_finished(target, open_raw(path)):
        # Nothing to write, so this works also for who may only read there.
        return ensure_prepared(target, flamby_compatible=flamby_compatible)
    return prepare(path, target, flamby_compatible=flamby_compatible, workers=workers, show_progress=show_progress)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What is in a prepared folder: "parameters", "subjects" in row order, "failed", "versions", "sha256"."""
    manifest = _read_json(folder / MANIFEST)
    if manifest.get("dataset") != "fed_ixi":
        raise DatasetError(
            f"{folder / MANIFEST} is not of prepared IXI data",
            to_do="give a folder made by  polyclinic dataset prepare fed_ixi",
        )
    return manifest


def prepare_image(volume: NDArray[np.float64]) -> NDArray[np.float32]:
    """(1, 48, 60, 48): resized, then mean 0 and population standard deviation 1; a constant image becomes 0."""
    image = _resize(volume, "area")
    std = image.std(correction=0)
    return ((image - image.mean()) / (std if std > 0 else 1.0)).numpy()[None]


def prepare_label(volume: NDArray[np.float64], *, flamby_compatible: bool = False) -> NDArray[np.uint8]:
    """(48, 60, 48) of 0 and 1: brain where the voxel's middle is; if compatible, where all of the voxel is."""
    # Truncation leaves 1 only where the average over the area is 1.
    resized = _resize(volume, "area" if flamby_compatible else "nearest-exact").to(torch.uint8)
    return resized.numpy()


def _resize(volume: NDArray[np.float64], mode: str) -> torch.Tensor:
    """(48, 60, 48) float32; "area": each new voxel is the mean of those that it covers, wholly or in part."""
    return F.interpolate(torch.from_numpy(volume).float()[None, None], size=SHAPE, mode=mode)[0, 0]


def _prepare_subject(raw: RawData, subject: Subject, part: Path, flamby_compatible: bool) -> None:
    """Writes one subject's arrays to a file that is either whole or not there."""
    if subject.hospital not in CENTERS:
        raise DatasetError(f"unknown hospital {subject.hospital!r}, expected one of {', '.join(CENTERS)}")
    if not subject.image or not subject.label:
        raise DatasetError(f"it has no {'label' if subject.image else 'T1 image'} file")
    try:
        contents = raw.read(subject.image), raw.read(subject.label)
    except (OSError, KeyError, zlib.error, zipfile.BadZipFile) as err:
        raise DatasetError(f"its files cannot be read: {err}") from err
    image = read_volume(contents[0], subject.image)
    label = read_volume(contents[1], subject.label)
    if image.shape != label.shape:
        raise DatasetError(f"image and label differ in shape: {image.shape} and {label.shape}")
    if not np.isfinite(image).all():
        raise DatasetError("the image has values that are not finite")
    if not np.isin(label, (0, 1)).all():
        raise DatasetError("the label has values other than 0 and 1")
    unfinished = part.with_suffix(".tmp")
    with unfinished.open("wb") as out:
        np.savez(out, image=prepare_image(image), label=prepare_label(label, flamby_compatible=flamby_compatible))
    unfinished.replace(part)


def _make_parts(
    raw: RawData, parts: Path, flamby_compatible: bool, workers: int | None, show_progress: bool
) -> dict[str, str]:
    """Makes the parts that are not there yet; returns the subjects that failed, and why."""
    # Here and not above: importing rich draws from Python's global random generator.
    from rich.progress import Progress

    parts.mkdir(exist_ok=True)
    todo = [subject for subject in raw.subjects if not _part(parts, subject).exists()]
    failed: dict[str, str] = {}
    # Threads: unpacking and resizing run outside of Python's lock, and the zip stays open for all.
    with (
        Progress(disable=not show_progress or not todo) as progress,
        ThreadPoolExecutor(workers or os.cpu_count()) as pool,
    ):
        task = progress.add_task("Preparing IXI", total=len(raw.subjects), completed=len(raw.subjects) - len(todo))
        jobs = {
            pool.submit(_prepare_subject, raw, subject, _part(parts, subject), flamby_compatible): subject
            for subject in todo
        }
        try:
            for job in as_completed(jobs):
                # One bad file must not cost the others: it is reported at the end. A full disk is no bad file.
                if isinstance(err := job.exception(), DatasetError):
                    failed[jobs[job].id] = str(err)
                elif err is not None:
                    raise err
                progress.advance(task)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return dict(sorted(failed.items()))


def _part(parts: Path, subject: Subject) -> Path:
    # The sizes are in the name, so that a part of other data is not taken for this one's.
    return parts / f"{subject.id}-{subject.num_bytes[0]}-{subject.num_bytes[1]}.npz"


def _assemble(
    everyone: Sequence[Subject], failed: Mapping[str, str], folder: Path, parameters: Mapping[str, Any]
) -> None:
    """Joins the parts to the two arrays and writes the manifest, then removes the parts."""
    subjects = [subject for subject in everyone if subject.id not in failed]
    arrays: dict[str, np.memmap[Any, Any]] = {
        IMAGES: _create(folder / IMAGES, np.float32, (len(subjects), 1, *SHAPE)),
        LABELS: _create(folder / LABELS, np.uint8, (len(subjects), *SHAPE)),
    }
    for row, subject in enumerate(subjects):
        with np.load(_part(folder / _PARTS, subject)) as part:
            arrays[IMAGES][row] = part["image"]
            arrays[LABELS][row] = part["label"]
    for name, array in arrays.items():
        array.flush()
        _unfinished(folder / name).replace(folder / name)
    manifest = {
        "dataset": "fed_ixi",
        "parameters": parameters,
        "versions": {name: version(name) for name in ("torch", "numpy", "nibabel")}
        | {"polyclinic": __version__, "python": platform.python_version()},
        "sha256": {name: _sha256(folder / name) for name in arrays},
        "subjects": [
            {
                "id": subject.id,
                "number": subject.number,
                "hospital": subject.hospital,
                "split": subject.split,
                "num_bytes": list(subject.num_bytes),
            }
            for subject in subjects
        ],
        "failed": [
            {"id": subject.id, "why": failed[subject.id], "num_bytes": list(subject.num_bytes)}
            for subject in everyone
            if subject.id in failed
        ],
    }
    _write_json(folder / MANIFEST, manifest)
    (folder / _STARTED).unlink()
    shutil.rmtree(folder / _PARTS)


def _create(path: Path, dtype: type[np.generic], shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    return np.lib.format.open_memmap(_unfinished(path), mode="w+", dtype=dtype, shape=shape)


def _unfinished(path: Path) -> Path:
    return path.with_name(f"{path.name}.tmp")


def _is_finished(folder: Path, raw: RawData) -> bool:
    """True if the folder holds what came of just these files."""
    if not (folder / MANIFEST).exists():
        return False
    manifest = read_manifest(folder)
    there = {entry["id"]: tuple(entry["num_bytes"]) for entry in manifest["subjects"] + manifest["failed"]}
    return there == {subject.id: subject.num_bytes for subject in raw.subjects}


def _damaged(folder: Path) -> list[str]:
    """The arrays that are not there or are not those that were written."""
    return [
        name
        for name, digest in read_manifest(folder)["sha256"].items()
        if not (folder / name).exists() or _sha256(folder / name) != digest
    ]


def _parameters(flamby_compatible: bool) -> dict[str, Any]:
    rule = "area, truncated" if flamby_compatible else "nearest"
    return {"format": 1, "shape": list(SHAPE), "image": "area, standardised", "label": rule}


def _require_same(there: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    differ = [f"{key}: {there.get(key)!r}, not {wanted[key]!r}" for key in wanted if there.get(key) != wanted[key]]
    if differ:
        raise DatasetError(
            f"{folder} holds data that were prepared in another way ({'; '.join(differ)})",
            to_do="choose another folder, or say flamby_compatible (--flamby-compatible) as when it was made",
        )


def _place_beside(path: Path, flamby_compatible: bool) -> Path:
    path = path.resolve()
    name = f"{path.name.removesuffix('.zip')}-prepared{'-as-flamby' if flamby_compatible else ''}"
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
            to_do="make room, or choose another folder; finished subjects are kept and not done again",
        ) from err


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as err:
        raise DatasetError(
            f"{path} cannot be read: {err}", to_do="remove its folder and prepare the data again"
        ) from err
    return content


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    _unfinished(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    _unfinished(path).replace(path)
