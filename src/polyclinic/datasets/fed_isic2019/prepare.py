"""ISIC 2019: from the JPEG files as published to arrays that are mapped at training.

The outcome is a folder with ``items/<image>/image.npy``, (height, width, 3) uint8, and ``manifest.json``, see
`polyclinic.datasets.prepared`. Facts of each image: "center", "target" (class number), "split".
"""

from __future__ import annotations

import threading
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from polyclinic.datasets.fed_isic2019.images import SHORTER_SIDE, prepare_image
from polyclinic.datasets.fed_isic2019.published import CENTERS, HOW_TO_GET_IT, center_of, published
from polyclinic.datasets.fed_isic2019.raw import ImageFile, RawData, open_raw
from polyclinic.datasets.preparation import Item, Preparation, ensure, run_preparation
from polyclinic.errors import ConfigError, DatasetError

NAME = "fed_isic2019"
IMAGE = "image"


def prepare(
    source: str | Path,
    to: str | Path,
    *,
    flamby_compatible: bool = False,
    shorter_side: int = SHORTER_SIDE,
    workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """Prepares raw ISIC 2019 data, or goes on with a preparation that was interrupted.

    Args:
        source: the folder as downloaded, see `polyclinic.datasets.fed_isic2019.raw`; zips are read in place.
        to: the folder for the arrays; 0.18 MB an image, 4 GB in all.
        flamby_compatible: colours that wrap around and JPEG in between, as in FLamby.
        shorter_side: of the prepared images, in pixels.
        workers: images at a time; by default, one for each core.

    Returns:
        ``to``. Images that cannot be prepared are left out and listed under "failed" in the manifest.

    Raises:
        DatasetError: no image can be read, no room, or ``to`` holds data that were prepared in another way.
    """
    preparation = _preparation(Path(source), flamby_compatible, shorter_side)
    return run_preparation(preparation, to, workers=workers, show_progress=show_progress)


def ensure_prepared(
    data_path: str | Path | None,
    *,
    to: str | Path | None = None,
    flamby_compatible: bool = False,
    shorter_side: int = SHORTER_SIDE,
    workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """The prepared folder for a path to raw or prepared data; raw data are prepared, once.

    Args:
        data_path: a prepared folder, which is returned as it is, or raw data.
        to: where to prepare raw data; by default beside them.

    Raises:
        DatasetError: there are no data, or they were prepared in another way.
    """
    return ensure(
        data_path,
        lambda path: _preparation(path, flamby_compatible, shorter_side),
        dataset=NAME,
        parameters=parameters_of(flamby_compatible, shorter_side),
        how_to_get_it=HOW_TO_GET_IT,
        suffix=("-as-flamby" if flamby_compatible else "") + (f"-{shorter_side}" * (shorter_side != SHORTER_SIDE)),
        to=to,
        workers=workers,
        show_progress=show_progress,
    )


def parameters_of(flamby_compatible: bool, shorter_side: int) -> dict[str, Any]:
    """What a prepared folder was made with, and must not be mixed."""
    if shorter_side < 8:
        raise ConfigError(f"shorter_side is {shorter_side} pixels", to_do="give at least 8; FLamby has 224")
    colours = "shades of gray 6, wrapped, JPEG 75" if flamby_compatible else "shades of gray 6, clipped"
    return {"format": 1, "shorter_side": shorter_side, "colours": colours}


def _preparation(source: Path, flamby_compatible: bool, shorter_side: int) -> Preparation:
    raw = open_raw(source)
    return Preparation(
        dataset=NAME,
        parameters=parameters_of(flamby_compatible, shorter_side),
        items=_items(raw),
        work=_Work(raw, shorter_side, flamby_compatible),
        libraries=("numpy", "pillow"),
        bytes_an_item=4 * shorter_side**2,  # three channels, and most images are a third wider than high
        label="Preparing ISIC 2019",
    )


def _items(raw: RawData) -> list[Item]:
    """The images of the list that are here or should be, in its order, then images that are not in the list.

    A table often names images of centers that are not here at all. Such a center is somebody else's; where any image
    of a center is here, its other images in the table should be too.
    """
    listed = published()
    present = {listed[name].center for name in raw.files if name in listed}
    items = []
    for name, entry in listed.items():
        file = raw.files.get(name)
        if file is not None or (name in raw.targets and entry.center in present):
            facts = {"center": entry.center, "target": raw.targets.get(name), "split": entry.split}
            items.append(Item(name, () if file is None else (file.num_bytes,), facts))
    # FLamby drops the images without a lesion id, about 2,000; they are no failure.
    strangers = (name for name in raw.files if name not in listed and raw.lesions.get(name) != "")
    return items + [Item(name, (raw.files[name].num_bytes,)) for name in strangers]


@dataclass
class _Work:
    """Makes the array of one image; runs in several threads at once."""

    raw: RawData
    shorter_side: int
    flamby_compatible: bool
    _zips: dict[Path, zipfile.ZipFile] = field(default_factory=dict)
    _lock: Any = field(default_factory=threading.Lock)

    def __call__(self, item: Item) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        self._check(item)
        content = self._read(self.raw.files[item.id])
        pixels = prepare_image(content, shorter_side=self.shorter_side, flamby_compatible=self.flamby_compatible)
        return {IMAGE: pixels}, {}

    def _check(self, item: Item) -> None:
        if not item.facts:
            raise DatasetError("it is not among the 23,247 images of Fed-ISIC2019")
        if item.id not in self.raw.files:
            raise DatasetError(f"a table names it, but there is no file {item.id}.jpg")
        if item.facts["target"] is None:
            raise DatasetError(self.raw.unclear.get(item.id, "no table has a row with its diagnosis"))
        told = center_of(self.raw.lesions.get(item.id, ""), self.raw.ham_sources.get(item.id))
        if told is not None and told != item.facts["center"]:
            raise DatasetError(
                f"the publisher's tables say that it is of {CENTERS[told]}, "
                f"the list of Fed-ISIC2019 that it is of {CENTERS[item.facts['center']]}"
            )

    def _read(self, file: ImageFile) -> bytes:
        if not file.member:
            return file.path.read_bytes()
        with self._lock:
            if file.path not in self._zips:
                self._zips[file.path] = zipfile.ZipFile(file.path)
        try:
            return self._zips[file.path].read(file.member)
        except (zlib.error, zipfile.BadZipFile, EOFError) as err:
            raise DatasetError(f"{file} cannot be read: {err}") from err
