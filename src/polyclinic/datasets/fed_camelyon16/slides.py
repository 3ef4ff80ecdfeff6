"""Which slides Camelyon16 has, and the label, center and part of each; all of it follows from a slide's name.

Training slides tell their hospital by their number (FLamby's rule, which its corrected table confirms); for the test
slides there is no rule, so the numbers are listed here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from polyclinic.errors import DatasetError

CENTERS = ("RUMC", "UMCU")  # Radboud UMC Nijmegen, UMC Utrecht

# The organisers renamed normal_086 to tumor_111, and test_049 is a copy of another slide.
LEFT_OUT = frozenset({"normal_086", "test_049"})
_LAST_NUMBER = {"normal": 160, "tumor": 111, "test": 130}
_LAST_OF_RUMC = {"normal": 100, "tumor": 70}
# fmt: off
_TEST_AT_UMCU = frozenset({
    1, 4, 8, 12, 14, 16, 18, 19, 22, 26, 28, 31, 33, 34, 37, 41, 42, 44, 46, 47, 48, 55, 58, 62, 63, 65, 66, 69, 71, 73,
    77, 78, 79, 80, 84, 86, 89, 92, 94, 95, 98, 99, 101, 102, 105, 109, 110, 113, 114, 116, 120, 122, 125, 127, 128,
})
_TEST_WITH_TUMOUR = frozenset({
    1, 2, 4, 8, 10, 11, 13, 16, 21, 26, 27, 29, 30, 33, 38, 40, 46, 48, 51, 52, 61, 64, 65, 66, 68, 69, 71, 73, 74, 75,
    79, 82, 84, 90, 92, 94, 97, 99, 102, 104, 105, 108, 110, 113, 114, 116, 117, 121, 122,
})
# fmt: on
# Tumour (lobular, macro-metastasis) in the organisers' reference; 0 in FLamby's tables.
_NORMAL_IN_FLAMBY = "test_114"
_NAME = re.compile(r"(normal|tumor|test)_(\d{3})")
ENDINGS = frozenset({".tif", ".tiff", ".svs", ".ndpi", ".mrxs", ".scn", ".svslide", ".bif", ".vms", ".dcm"})
HOW_TO_GET_IT = (
    "get slides with  polyclinic dataset download fed_camelyon16 --to DIR --accept-license , or try made-up ones: "
    "polyclinic dataset mock fed_camelyon16 --to DIR"
)


@dataclass(frozen=True)
class Slide:
    """A slide of Camelyon16: ``label`` 1 with metastasis, else 0; ``center`` 0 or 1; ``split`` "train" or "test"."""

    name: str
    label: int
    center: int
    split: str

    def label_for(self, *, flamby_compatible: bool) -> int:
        """The label; that of FLamby's table when asked for, which differs for one slide."""
        return 0 if flamby_compatible and self.name == _NORMAL_IN_FLAMBY else self.label


def slide_of(name: str) -> Slide:
    """The slide with a name like "tumor_001", upper or lower case, without ending.

    Raises:
        DatasetError: Camelyon16 has no such slide.
    """
    match = _NAME.fullmatch(name.lower())
    number = int(match[2]) if match else 0
    if not match or not 1 <= number <= _LAST_NUMBER[match[1]] or match[0] in LEFT_OUT:
        raise DatasetError(
            f"{name!r} is not the name of a slide of Camelyon16",
            to_do="slides are called normal_001 to normal_160, tumor_001 to tumor_111 and test_001 to test_130",
        )
    kind = match[1]
    if kind == "test":
        center = int(number in _TEST_AT_UMCU)
        return Slide(match[0], int(number in _TEST_WITH_TUMOUR), center, "test")
    return Slide(match[0], int(kind == "tumor"), int(number > _LAST_OF_RUMC[kind]), "train")


def published_slides() -> list[Slide]:
    """The 399 slides, by name."""
    names = [f"{kind}_{number:03d}" for kind, last in _LAST_NUMBER.items() for number in range(1, last + 1)]
    return [slide_of(name) for name in sorted(set(names) - LEFT_OUT)]


def find_slides(folder: Path) -> dict[str, Path]:
    """Name in lower case -> file, by name, of all slide files in a folder, or in its ``images`` folder.

    Whether a name is one of Camelyon16 is not looked at, except that the two slides that do not count are left out.

    Raises:
        DatasetError: no folder, no slide file in it, or two files of one name.
    """
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}", to_do=HOW_TO_GET_IT)
    for place in (folder, folder / "images"):
        if found := _by_name(place.iterdir() if place.is_dir() else ()):
            return found
    raise DatasetError(
        f"{folder} holds no slide: no file like tumor_001.tif",
        to_do="give the folder in which the slides lie side by side; or " + HOW_TO_GET_IT,
    )


def _by_name(paths: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(paths):
        name = path.stem.lower()
        # Hidden files are what other programs leave beside a file, such as "._tumor_001.tif".
        if path.suffix.lower() not in ENDINGS or not path.is_file() or path.name.startswith("."):
            continue
        if name in LEFT_OUT:
            continue
        if name in found:
            raise DatasetError(
                f"slide {name} has two files: {found[name].name} and {path.name}",
                to_do=f"keep one of them in {path.parent}",
            )
        found[name] = path
    return found
