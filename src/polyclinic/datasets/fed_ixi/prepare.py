"""IXI: from the NIfTI files as published to arrays that are mapped at training.

Each volume, 83 x 44 x 55 voxels, is brought to 48 x 60 x 48. The image is averaged over areas and standardised (mean
0, population standard deviation 1 over the volume). A voxel of the mask is brain if its middle lies in the brain,
which keeps the volume within one per cent; half of its area would not: one axis grows, so exact halves are frequent.

The outcome is a folder with ``images.npy`` (n, 1, 48, 60, 48) float32, ``labels.npy`` (n, 48, 60, 48) uint8 and
``manifest.json``, see `polyclinic.datasets.preparation`.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from polyclinic.datasets.fed_ixi.raw import read_volume
from polyclinic.datasets.fed_ixi.subjects import CENTERS, HOW_TO_GET_IT, RawData, Subject, open_raw
from polyclinic.datasets.preparation import Item, Preparation, Prepared, ensure, run_preparation
from polyclinic.errors import DatasetError

SHAPE = (48, 60, 48)
IMAGES, LABELS = "images", "labels"


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
        DatasetError: no subject can be read, there is no room, or ``to`` holds data that were prepared in another way.
    """
    preparation = _preparation(Path(source), flamby_compatible)
    return run_preparation(preparation, to, stacked=True, workers=workers, show_progress=show_progress)


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
    return ensure(
        data_path,
        lambda path: _preparation(path, flamby_compatible),
        dataset="fed_ixi",
        parameters=_parameters(flamby_compatible),
        how_to_get_it=HOW_TO_GET_IT,
        suffix="-as-flamby" if flamby_compatible else "",
        stacked=True,
        to=to,
        workers=workers,
        show_progress=show_progress,
    )


def open_prepared(data_path: str | Path | None, *, flamby_compatible: bool = False) -> Prepared:
    """The prepared data for a path to raw or prepared data, see `ensure_prepared`."""
    folder = ensure_prepared(data_path, flamby_compatible=flamby_compatible)
    return Prepared(folder, dataset="fed_ixi", parameters=_parameters(flamby_compatible))


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


def _preparation(source: Path, flamby_compatible: bool) -> Preparation:
    raw = open_raw(source)
    subjects = {subject.id: subject for subject in raw.subjects}
    return Preparation(
        dataset="fed_ixi",
        parameters=_parameters(flamby_compatible),
        items=[
            Item(
                subject.id,
                subject.num_bytes,
                {"number": subject.number, "hospital": subject.hospital, "split": subject.split},
            )
            for subject in raw.subjects
        ],
        work=lambda item: (_prepare_subject(raw, subjects[item.id], flamby_compatible), {}),
        libraries=("torch", "numpy", "nibabel"),
        bytes_an_item=5 * int(np.prod(SHAPE)),
        label="Preparing IXI",
    )


def _prepare_subject(raw: RawData, subject: Subject, flamby_compatible: bool) -> dict[str, NDArray[Any]]:
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
    return {IMAGES: prepare_image(image), LABELS: prepare_label(label, flamby_compatible=flamby_compatible)}


def _parameters(flamby_compatible: bool) -> dict[str, Any]:
    rule = "area, truncated" if flamby_compatible else "nearest"
    return {"format": 2, "shape": list(SHAPE), "image": "area, standardised", "label": rule}
