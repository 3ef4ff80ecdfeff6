"""Who is in Fed-KiTS19: cases, their sites, their folds, and where their files are.

Raw data as from the publisher: a folder ``case_00000`` for each case with ``imaging.nii.gz`` and
``segmentation.nii.gz``, at whatever depth below the folder that is given (``kits19/data`` in a clone).
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from polyclinic.errors import DatasetError

NUM_LABELLED = 210  # the first cases; the segmentations of the other 90 were never published
_FEWEST_CASES = 10  # of a site that becomes a center
_TRAIN_FRACTION = 0.8
IMAGE, LABEL = "imaging.nii.gz", "segmentation.nii.gz"
_FOLDER = re.compile(r"case_(\d{5})")
HOW_TO_GET_IT = (
    "get the data with  polyclinic dataset download fed_kits19 --to DIR --accept-license , or try made-up ones: "
    "polyclinic dataset mock fed_kits19 --to DIR"
)


@cache
def sites() -> tuple[int, ...]:
    """The anonymous number of the hospital of each of the 300 cases of KiTS19."""
    content = json.loads(resources.files(__package__).joinpath("sites.json").read_text("utf-8"))
    return tuple(content["sites"])


@cache
def folds() -> dict[int, tuple[int, str]]:
    """Case number -> (center, "train" or "test"), of the 96 cases of Fed-KiTS19, by rising number.

    FLamby's rule: the sites with at least 10 of the 210 labelled cases, by rising number of the site; of each, the
    first 80 % of the cases by rising number are for training.
    """
    of_site: dict[int, list[int]] = {}
    for number, site in enumerate(sites()[:NUM_LABELLED]):
        of_site.setdefault(site, []).append(number)
    chosen = [of_site[site] for site in sorted(of_site) if len(of_site[site]) >= _FEWEST_CASES]
    found: dict[int, tuple[int, str]] = {}
    for center, numbers in enumerate(chosen):
        num_train = int(_TRAIN_FRACTION * len(numbers))
        found |= {number: (center, "train" if k < num_train else "test") for k, number in enumerate(numbers)}
    return dict(sorted(found.items()))


# Sites 7, 13, 14, 55, 57 and 67 of the publisher, which does not tell the hospitals' names.
CENTERS = tuple(
    f"site {sites()[next(number for number, (at, _) in folds().items() if at == center)]}" for center in range(6)
)


def case_name(number: int) -> str:
    """The publisher's name of a case, for example ``case_00021``."""
    return f"case_{number:05d}"


@dataclass(frozen=True)
class Case:
    """A case of Fed-KiTS19 and its raw files, either of which may be missing."""

    number: int
    folder: Path

    @property
    def name(self) -> str:
        return case_name(self.number)

    @property
    def center(self) -> int:
        return folds()[self.number][0]

    @property
    def split(self) -> str:
        return folds()[self.number][1]

    @property
    def image(self) -> Path:
        return self.folder / IMAGE

    @property
    def label(self) -> Path:
        return self.folder / LABEL

    @property
    def num_bytes(self) -> tuple[int, int]:
        """Sizes of image and label; 0 for one that is missing."""
        image, label = (path.stat().st_size if path.is_file() else 0 for path in (self.image, self.label))
        return image, label


def find_cases(path: Path) -> tuple[Case, ...]:
    """The cases of Fed-KiTS19 below a folder, by rising number; other cases of KiTS19 are passed over.

    Raises:
        DatasetError: there is none, or one is there twice.
    """
    if not path.is_dir():
        raise DatasetError(f"there is no folder {path}", to_do=HOW_TO_GET_IT)
    found: dict[int, Case] = {}
    passed_over = 0
    for root, folders, _ in os.walk(path, followlinks=True):
        for name in sorted(folders):
            if not (match := _FOLDER.fullmatch(name)):
                continue
            case = Case(int(match[1]), Path(root, name))
            if case.number not in folds():
                passed_over += 1
                continue
            if case.number in found:
                raise DatasetError(
                    f"{name} is there twice: {found[case.number].folder} and {case.folder}",
                    to_do="give the folder that holds one copy of the data",
                )
            found[case.number] = case
        # There is nothing more in a case's folder, and git's own folders are large.
        folders[:] = [name for name in folders if not _FOLDER.fullmatch(name) and not name.startswith(".")]
    if not found:
        others = f"; its {passed_over} cases are of other hospitals" if passed_over else ""
        raise DatasetError(
            f"{path} holds no case of Fed-KiTS19: no folder like case_00021 with {IMAGE} and {LABEL}{others}",
            to_do="give the clone of kits19 or its folder data; or " + HOW_TO_GET_IT,
        )
    return tuple(found[number] for number in sorted(found))
