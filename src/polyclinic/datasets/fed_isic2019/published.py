"""The published list of Fed-ISIC2019: which images, in which order, of which center, in which fold.

``published.npz`` has four columns of 23,247 rows, in FLamby's order: ``number`` (7 digits in the image's name),
``downsampled`` (its name ends so), ``center`` and ``test``. FLamby's split is scikit-learn's, stratified by center
with seed 13, of this order; the order itself came of a shuffle without a seed, so it can only be listed. There is
nothing else about an image in the list: its diagnosis is in the publisher's file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType

import numpy as np

# Barcelona; the four sources of HAM10000 (Vienna and Queensland); Memorial Sloan Kettering, New York.
CENTERS = ("BCN", "HAM_vidir_molemax", "HAM_vidir_modern", "HAM_rosendahl", "MSK", "HAM_vienna_dias")
CLASSES = ("MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC")
HOW_TO_GET_IT = (
    "get the data with  polyclinic dataset download fed_isic2019 --to DIR --accept-license , or try made-up ones: "
    "polyclinic dataset mock fed_isic2019 --to DIR"
)


@dataclass(frozen=True)
class Entry:
    """One image of the list; ``row`` is its place in FLamby's order."""

    row: int
    center: int
    split: str  # "train" or "test"


@cache
def published() -> Mapping[str, Entry]:
    """Image name, for example "ISIC_0024306", -> its entry, in FLamby's order."""
    with resources.files(__package__).joinpath("published.npz").open("rb") as file, np.load(file) as table:
        columns = [table[name].tolist() for name in ("number", "downsampled", "center", "test")]
    entries = {
        f"ISIC_{number:07d}{'_downsampled' * downsampled}": Entry(row, center, "test" if test else "train")
        for row, (number, downsampled, center, test) in enumerate(zip(*columns, strict=True))
    }
    return MappingProxyType(entries)


def center_of(lesion_id: str, ham_source: str | None) -> int | None:
    """The center by the publisher's tables: the lesion's prefix, and for HAM10000 the column ``dataset``.

    Returns None where the tables do not tell.
    """
    if lesion_id.startswith("BCN_"):
        return CENTERS.index("BCN")
    if lesion_id.startswith("MSK4"):
        return CENTERS.index("MSK")
    name = f"HAM_{ham_source}"
    return CENTERS.index(name) if lesion_id.startswith("HAM_") and name in CENTERS else None
