"""Who is in the IXI data: subjects, their hospitals, their folds, and where their files are.

The data as they come from the publisher: a folder or a zip with, for each subject,
``IXI002-Guys-0828/T1/IXI002-Guys-0828_image.nii.gz`` and ``IXI002-Guys-0828/label/IXI002-Guys-0828_label.nii.gz``,
at whatever depth; also in TorchIO's layout, ``image/IXI002-Guys-0828_image.nii.gz`` and ``label/…``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from polyclinic.errors import DatasetError

CENTERS = ("Guys", "HH", "IOP")  # Guy's Hospital, Hammersmith Hospital, Institute of Psychiatry

_FILE = re.compile(r"(?:^|/)(T1|image|label)/((IXI(\d{3})-([A-Za-z]+)-\d{4})[^/]*\.nii(?:\.gz)?)$")
_SEED = 10
_TRAIN_FRACTION = 0.8
HOW_TO_GET_IT = (
    "get the data with  polyclinic dataset download fed_ixi --to DIR --accept-license , or try made-up ones: "
    "polyclinic dataset mock fed_ixi --to DIR"
)


@dataclass(frozen=True, order=True)
class Subject:
    """One subject and the names of its two files in the raw data; a name is empty when there is no such file."""

    number: int
    hospital: str
    id: str
    image: str
    label: str
    num_bytes: tuple[int, int]  # of the two files as they lie there, to recognise that they have changed

    @property
    def split(self) -> str:
        return split_of(self.id, self.number, self.hospital)


@dataclass(frozen=True)
class RawData:
    """Raw data to read from: subjects by rising number, and a function from a file's name to its bytes."""

    subjects: tuple[Subject, ...]
    read: Callable[[str], bytes]


@cache
def published_folds() -> dict[tuple[str, int], str]:
    """(hospital, patient number) -> "train" or "test", of the 566 published subjects.

    FLamby's rule: with one generator of seed 10, for HH, Guys and IOP in this order, shuffle a list of 80 % "train"
    and 20 % "test", and deal it out by rising patient number.
    """
    numbers = json.loads(resources.files(__package__).joinpath("patient_numbers.json").read_text("utf-8"))
    rng = np.random.RandomState(_SEED)
    folds: dict[tuple[str, int], str] = {}
    for hospital in ("HH", "Guys", "IOP"):
        patients = sorted(numbers[hospital])
        num_train = round(_TRAIN_FRACTION * len(patients))
        dealt = ["train"] * num_train + ["test"] * (len(patients) - num_train)
        rng.shuffle(dealt)
        folds |= {(hospital, number): fold for number, fold in zip(patients, dealt, strict=True)}
    return folds


def split_of(subject_id: str, number: int, hospital: str) -> str:
    """The published fold; for a subject who is not in the published data, 80 % "train" by a hash of the id."""
    known = published_folds().get((hospital, number))
    if known is not None:
        return known
    # A hash of the id alone: a subject keeps its fold whoever else joins or leaves.
    digest = hashlib.blake2b(subject_id.encode(), digest_size=8).digest()
    return "train" if int.from_bytes(digest, "big") < _TRAIN_FRACTION * 2**64 else "test"


def open_raw(path: Path) -> RawData:
    """Finds the subjects in a folder or a zip; in a folder without any, looks into its zip.

    Raises:
        DatasetError: nothing there, no subject in it, or a subject twice.
    """
    if not path.exists():
        raise DatasetError(f"there is no {path}", to_do=HOW_TO_GET_IT)
    if path.is_dir():
        subjects = _subjects(_files_below(path))
        if subjects:
            return RawData(subjects, lambda name: (path / name).read_bytes())
        if len(zips := sorted(path.glob("*.zip"))) == 1:
            return open_raw(zips[0])
    elif zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        subjects = _subjects({entry.filename: entry.file_size for entry in archive.infolist()})
        if subjects:
            return RawData(subjects, archive.read)
    raise DatasetError(
        f"{path} holds no subject: no file like T1/IXI002-Guys-0828_image.nii.gz",
        to_do="give the unzipped folder or the zip of IXI Tiny; or " + HOW_TO_GET_IT,
    )


def _files_below(folder: Path) -> dict[str, int]:
    """Relative name with / -> size, of all image files; folders that are links are followed."""
    found: dict[str, int] = {}
    for root, _, names in os.walk(folder, followlinks=True):
        for name in names:
            if name.endswith((".nii", ".nii.gz")):
                path = Path(root, name)
                found[path.relative_to(folder).as_posix()] = path.stat().st_size
    return found


def _subjects(sizes: dict[str, int]) -> tuple[Subject, ...]:
    files: dict[str, dict[str, str]] = {}
    for name in sorted(sizes):
        if match := _FILE.search(name):
            of_subject = files.setdefault(match[3], {})
            if match[1] in of_subject:
                raise DatasetError(
                    f"subject {match[3]} has two files: {of_subject[match[1]]} and {name}",
                    to_do="give the folder that holds one copy of the data",
                )
            of_subject[match[1]] = name
    subjects = []
    for subject_id, found in files.items():
        image, label = found.get("T1", found.get("image", "")), found.get("label", "")
        number, hospital = int(subject_id[3:6]), subject_id.split("-")[1]
        num_bytes = (sizes.get(image, 0), sizes.get(label, 0))
        subjects.append(Subject(number, hospital, subject_id, image, label, num_bytes))
    return tuple(sorted(subjects))
