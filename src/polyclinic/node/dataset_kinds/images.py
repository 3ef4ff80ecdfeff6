"""Images in folders: a folder a class, its name the class's name.

Either ``path/<class>/*.png`` and a split by hash, or ``path/train/<class>/…`` and ``path/test/<class>/…``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

import numpy as np
import pydantic
from numpy.typing import NDArray

from polyclinic.errors import DatasetError, nearest
from polyclinic.node.dataset_kinds.fingerprint import changed_files, files_below, fingerprint
from polyclinic.node.dataset_kinds.image_files import (
    SUFFIXES,
    ImageFiles,
    UnreadableImage,
    read_image,
)
from polyclinic.node.dataset_kinds.kind import Found
from polyclinic.node.dataset_kinds.params import AbsolutePath, Channels, KindParams, Size, TestFraction, Words
from polyclinic.node.dataset_kinds.split import split_notes, split_rows

if TYPE_CHECKING:
    from torch.utils.data import Dataset

_SPLIT_FOLDERS = ("train", "test")
_NO_LIMIT = 10**9


def _with_a_group(pattern: str | None) -> str | None:
    if pattern is None:
        return None
    try:
        groups = re.compile(pattern).groups
    except re.error as err:
        raise ValueError(f"not a regular expression: {err}") from None
    if groups < 1:
        raise ValueError("needs a group in parentheses that matches the patient, for example ^(p[0-9]+)_")
    return pattern


class ImagesParams(KindParams):
    path: AbsolutePath
    size: Size | None = None  # (height, width) to resize to; None: all images have one size
    channels: Channels | None = None  # None: as the first image has
    classes: Words = ()  # the folders' names in the order of their index; (): sorted as found
    test_fraction: TestFraction = 0.2  # approximate, see split.py
    seed: int = 0  # of the split
    patient_pattern: Annotated[str | None, pydantic.AfterValidator(_with_a_group)] = None  # on the file's name
    allow_one_class: bool = False


@dataclass(frozen=True)
class _Folders:
    classes: tuple[str, ...]
    files: tuple[Path, ...]
    labels: tuple[int, ...]
    test: NDArray[np.bool_]  # (n,)
    notes: tuple[str, ...]


class Images:
    """x: float32 (C, H, W) in [0, 1]. y: the class's index, int64 ()."""

    name: ClassVar[str] = "images"
    Params: type[ImagesParams] = ImagesParams

    def inspect(self, params: ImagesParams) -> Found:
        folders = _list(params)
        shape = _check_images(params, folders.files)
        return Found(
            num_train=int((~folders.test).sum()),
            num_test=int(folders.test.sum()),
            shape=shape,
            target=f"folder ({len(folders.classes)} classes)",
            classes=folders.classes,
            notes=folders.notes,
            fingerprint=fingerprint(params.path, self._all_files(params)),
        )

    def load(self, params: ImagesParams, *, train: bool) -> Dataset[Any]:
        folders = _list(params)
        rows = np.flatnonzero(folders.test != train).tolist()
        dataset = ImageFiles(
            [folders.files[i] for i in rows],
            [folders.labels[i] for i in rows],
            channels=params.channels or read_image(folders.files[0]).shape[2],
            size=params.size,
        )
        return cast("Dataset[Any]", dataset)

    def paths(self, params: ImagesParams) -> tuple[Path, ...]:
        if not params.path.is_dir():
            return (params.path,)
        first = _subfolders(params.path)
        return params.path, *first, *(second for folder in first for second in _subfolders(folder))

    def changed(self, params: ImagesParams, fingerprint: str, *, glance: bool = False) -> str | None:
        if not params.path.is_dir():
            return "The folder of the images has vanished."
        if glance:
            return None
        return changed_files(params.path, self._all_files(params), fingerprint)

    def module(self, params: ImagesParams) -> ModuleType | None:  # noqa: ARG002
        return None

    def _all_files(self, params: ImagesParams) -> list[Path]:
        return [file for file in files_below(params.path, limit=_NO_LIMIT) if _is_image(file)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _subfolders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _list(params: ImagesParams) -> _Folders:
    """The images, their classes and their split; no image is read."""
    if not params.path.is_dir():
        raise DatasetError(f"there is no folder {params.path}", to_do="check --path")
    is_split = {folder.name for folder in _subfolders(params.path)} == set(_SPLIT_FOLDERS)
    roots = [params.path / name for name in _SPLIT_FOLDERS] if is_split else [params.path]
    classes = _classes(params, roots)
    files, labels, sides, num_other = [], [], [], 0
    for side, root in enumerate(roots):
        for label, name in enumerate(classes):
            below = files_below(root / name, limit=_NO_LIMIT) if (root / name).is_dir() else ()
            images = [file for file in below if _is_image(file)]
            files += images
            labels += [label] * len(images)
            sides += [side] * len(images)
            num_other += len(below) - len(images)
    strata = np.array(labels, dtype=np.int64)
    _check_counts(params, strata, [sides.count(side) for side in range(len(roots))])
    test, notes = _split(params, files, strata, np.array(sides, dtype=bool) if is_split else None)
    if absent := [name for label, name in enumerate(classes) if label not in labels]:
        notes.append(f"There is no image of the class {', '.join(map(repr, absent))}.")
    if num_other:
        notes.append(f"{num_other} files were left out because they are not images ({', '.join(SUFFIXES)}).")
    return _Folders(classes, tuple(files), tuple(labels), test, tuple(notes))


def _classes(params: ImagesParams, roots: Sequence[Path]) -> tuple[str, ...]:
    found = sorted({folder.name for root in roots for folder in _subfolders(root)})
    if not found:
        raise DatasetError(
            f"{params.path.name} has no folders in it",
            to_do="put the images of each class into a folder of its own, with the class's name",
        )
    if params.classes and (odd := sorted(set(found) - set(params.classes))):
        raise DatasetError(
            f"folder {odd[0]!r} in {params.path.name} is not among the declared classes",
            to_do=f"correct --classes ({nearest(odd[0], params.classes)}), or move the folder elsewhere",
        )
    return params.classes or tuple(found)


def _check_counts(params: ImagesParams, labels: NDArray[np.int64], of_sides: list[int]) -> None:
    if len(labels) < 2 or 0 in of_sides:
        raise DatasetError(
            f"there are too few images in {params.path.name}: {len(labels)} in all, {min(of_sides)} on one side",
            to_do=f"give at least two, to train and to test, as {', '.join(SUFFIXES)}",
        )
    if len(np.unique(labels)) == 1 and not params.allow_one_class:
        raise DatasetError(
            f"all {len(labels)} images in {params.path.name} are of one class",
            to_do="check the folders; if this hospital has one class only, say so: --allow-one-class true",
        )


def _split(
    params: ImagesParams, files: Sequence[Path], labels: NDArray[np.int64], given: NDArray[np.bool_] | None
) -> tuple[NDArray[np.bool_], list[str]]:
    """(n,) which are in test, and notes. ``given`` is the split of the folders, if they have one."""
    owners = _owners(params, files)
    if given is not None:
        train_owners = {owner for owner, is_test in zip(owners, given, strict=True) if not is_test}
        test_owners = {owner for owner, is_test in zip(owners, given, strict=True) if is_test}
        if params.patient_pattern and (both := train_owners & test_owners):
            raise DatasetError(
                f"{len(both)} patients have images in both train and test",
                to_do="move all images of a patient to one side, or correct --patient-pattern",
            )
        return given, ["The split into train and test is that of the folders."]
    if len(set(owners)) < 2:
        raise DatasetError(
            f"all {len(files)} images are of one patient",
            to_do="give images of at least two patients, or correct --patient-pattern",
        )
    split = split_rows(owners, test_fraction=params.test_fraction, seed=params.seed, strata=labels)
    return split.test, split_notes(split, params.test_fraction)


def _owners(params: ImagesParams, files: Sequence[Path]) -> list[bytes]:
    """Whose image it is: the patient in its name, or the file itself."""
    if params.patient_pattern is None:
        return [file.relative_to(params.path).as_posix().encode() for file in files]
    matches = [re.search(params.patient_pattern, file.name) for file in files]
    owners = [match.group(1) if match else None for match in matches]
    if odd := sum(not owner for owner in owners):
        raise DatasetError(
            f"--patient-pattern finds no patient in the names of {odd} of {len(files)} images",
            to_do="correct the pattern or the files' names",
        )
    return [str(owner).encode() for owner in owners]


def _check_images(params: ImagesParams, files: Sequence[Path]) -> tuple[int, int, int]:
    """Reads every image; the shape (C, H, W) that they have after resizing."""
    broken: list[str] = []
    sizes: Counter[tuple[int, int]] = Counter()
    channels = params.channels
    for file in files:
        try:
            pixels = read_image(file)
        except UnreadableImage as err:
            broken.append(f"{file.name} ({err})")
            continue
        channels = channels or pixels.shape[2]
        sizes[pixels.shape[:2]] += 1
    if broken:
        more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
        raise DatasetError(
            f"{len(broken)} of {len(files)} images cannot be used: {', '.join(broken[:3])}{more}",
            to_do="export these files again, or remove them",
        )
    if params.size is None and len(sizes) > 1:
        (height, width), count = sizes.most_common(1)[0]
        raise DatasetError(
            f"the images have {len(sizes)} sizes; the most common, {height}x{width} (height x width), "
            f"has {count} of {len(files)}",
            to_do=f"choose one size for all: --size {height}x{width}",
        )
    height, width = params.size or next(iter(sizes))
    assert channels is not None
    return channels, height, width
