"""Raw ISIC 2019 data: which images there are, and what the publisher's tables say of them.

A folder as downloaded, at whatever depth: the images as JPEG files or in zips, and beside them

- ``ISIC_2019_Training_GroundTruth.csv``: the diagnosis of each image, a column of 0 and 1 for each class
- ``ISIC_2019_Training_Metadata.csv`` and ``HAM10000_metadata``: not needed; if there, they are compared with the list

Whoever has HAM10000 alone needs only its own table (``image_id``, ``dx``, ``dataset``).
"""

from __future__ import annotations

import csv
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.datasets.fed_isic2019.published import CLASSES, HOW_TO_GET_IT
from polyclinic.errors import DatasetError

# HAM10000's word "akiec" is for AK and for SCC, so that ISIC's own table is needed to tell them apart.
_HAM_CLASSES = {"mel": 0, "nv": 1, "bcc": 2, "bkl": 4, "df": 5, "vasc": 6}


@dataclass(frozen=True)
class ImageFile:
    """Where one image is: a file, or a member of a zip."""

    path: Path
    member: str
    num_bytes: int

    def __str__(self) -> str:
        return f"{self.path.name}:{self.member}" if self.member else str(self.path)


@dataclass
class RawData:
    """What was found. Keys are image names, for example "ISIC_0024306"."""

    files: dict[str, ImageFile] = field(default_factory=dict)
    targets: dict[str, int] = field(default_factory=dict)  # class numbers
    lesions: dict[str, str] = field(default_factory=dict)  # lesion ids, empty for those that FLamby drops
    ham_sources: dict[str, str] = field(default_factory=dict)  # HAM10000's column "dataset"
    unclear: dict[str, str] = field(default_factory=dict)  # why an image that a table names has no class


def open_raw(path: Path) -> RawData:
    """Looks through a folder or a zip; reads tables, but no image.

    Raises:
        DatasetError: nothing there, no image or no diagnosis in it, an image twice, or a table that makes no sense.
    """
    if not path.exists():
        raise DatasetError(f"there is no {path}", to_do=HOW_TO_GET_IT)
    raw, tables = RawData(), []
    for found in _files_below(path):
        if found.suffix.lower() in (".jpg", ".jpeg"):
            _add(raw, ImageFile(found, "", found.stat().st_size))
        elif found.suffix.lower() == ".zip":
            _add_zip(raw, found)
        elif _is_table(found):
            tables.append(found)
    if path.is_file():
        # The zip has the images alone; the tables lie beside it.
        tables = [found for found in path.parent.iterdir() if _is_table(found)]
    if not raw.files:
        raise DatasetError(
            f"{path} holds no image: no file like ISIC_0024306.jpg",
            to_do="give the folder with the images or their zip; or " + HOW_TO_GET_IT,
        )
    ham_targets: dict[str, int] = {}
    for table in sorted(tables):
        _read_table(table, raw, ham_targets)
    # ISIC's diagnoses win over those that HAM10000 has in its own words.
    raw.targets = ham_targets | raw.targets
    if not raw.targets:
        raise DatasetError(
            f"{path} holds no table of diagnoses",
            to_do="put ISIC_2019_Training_GroundTruth.csv beside the images; it comes with  "
            "polyclinic dataset download fed_isic2019",
        )
    return raw


def _files_below(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    for root, folders, names in os.walk(path, followlinks=True):
        folders.sort()
        # Disks that were at a Mac have a hidden shadow of each file.
        yield from (Path(root, name) for name in sorted(names) if not name.startswith("."))


def _is_table(path: Path) -> bool:
    return path.suffix.lower() == ".csv" or path.name == "HAM10000_metadata"


def _add(raw: RawData, file: ImageFile) -> None:
    name = Path(file.member or file.path.name).stem
    if name in raw.files:
        raise DatasetError(
            f"image {name} is there twice: {raw.files[name]} and {file}",
            to_do="give the folder that holds one copy of the data",
        )
    raw.files[name] = file


def _add_zip(raw: RawData, path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.filename.lower().endswith((".jpg", ".jpeg")) and not Path(entry.filename).name.startswith("."):
                    _add(raw, ImageFile(path, entry.filename, entry.file_size))
    except zipfile.BadZipFile as err:
        raise DatasetError(f"{path} is not a whole zip: {err}", to_do="download it again") from err


def _read_table(path: Path, raw: RawData, ham_targets: dict[str, int]) -> None:
    """Adds what a table says; tables with other columns than those that are known are left alone."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            columns = set(reader.fieldnames or ())
            if {"image", *CLASSES} <= columns:
                for row in reader:
                    _once(raw.targets, row["image"], _target(row, path), path)
            elif {"image", "lesion_id"} <= columns:
                raw.lesions.update((row["image"], row["lesion_id"] or "") for row in reader)
            elif {"image_id", "lesion_id", "dx"} <= columns:
                for row in reader:
                    raw.lesions.setdefault(row["image_id"], row["lesion_id"] or "")
                    raw.ham_sources[row["image_id"]] = row.get("dataset") or ""
                    if row["dx"] in _HAM_CLASSES:
                        _once(ham_targets, row["image_id"], _HAM_CLASSES[row["dx"]], path)
                    else:
                        raw.unclear[row["image_id"]] = (
                            f"{path.name} says {row['dx']!r}, which may be AK or SCC: "
                            "ISIC_2019_Training_GroundTruth.csv is needed to tell"
                            if row["dx"] == "akiec"
                            else f"{path.name} has an unknown diagnosis for it"
                        )
    except (OSError, UnicodeDecodeError, csv.Error) as err:
        raise DatasetError(f"{path} cannot be read as a table: {err}", to_do="download it again") from err


def _target(row: dict[str, str], path: Path) -> int:
    try:
        ones = [number for number, name in enumerate(CLASSES) if float(row[name]) == 1]
    except (TypeError, ValueError):
        ones = []
    if len(ones) != 1:
        raise DatasetError(
            f"{path.name} gives {len(ones)} diagnoses for image {row['image']}, expected one of {', '.join(CLASSES)}",
            to_do="download the table again",
        )
    return ones[0]


def _once(targets: dict[str, int], name: str, target: int, path: Path) -> None:
    if targets.setdefault(name, target) != target:
        raise DatasetError(
            f"{path.name} names image {name} again, with another diagnosis", to_do="download the table again"
        )
