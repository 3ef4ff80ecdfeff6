"""LIDC-IDRI: from DICOM slices and the readers' XML to arrays that are mapped at training.

For each scan, after resampling to voxels of 1 mm:

=============  =================  =======================================================================
``image``      (x, y, z) int16    Hounsfield units, from -1024
``voxels``     (n, 3) int16       where any reader sees a nodule, by rising x, y, z
``readers``    (n,) uint8         which readers do: bit k is reader k
=============  =================  =======================================================================

Nodules fill less than a thousandth of a scan. So they are kept as a list of voxels: a hundredth of a mask's size, and
to draw a random voxel of a nodule no mask is searched.
"""

from __future__ import annotations

import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polyclinic.datasets import preparation
from polyclinic.datasets.fed_lidc_idri.annotations import (
    Mask,
    nodule_mask,
    nodule_mask_as_flamby,
    read_annotations,
)
from polyclinic.datasets.fed_lidc_idri.dicom import Series, read_series
from polyclinic.datasets.fed_lidc_idri.raw import HOW_TO_GET_IT, Scan, find_scans, patients_in_both_folds
from polyclinic.datasets.fed_lidc_idri.resampling import mask_to_one_mm, to_one_mm, to_one_mm_as_flamby
from polyclinic.datasets.preparation import Item, Preparation, run_preparation
from polyclinic.errors import DatasetError

DATASET = "fed_lidc_idri"
_LOWEST = -1024.0  # HU of air, and below it only what scanners fill the corners with
_BYTES_A_SCAN = 90_000_000  # a volume of 360 x 360 x 340 mm


def prepare(
    source: str | Path,
    to: str | Path,
    *,
    flamby_compatible: bool = False,
    workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """Prepares raw LIDC-IDRI data, or goes on with a preparation that was interrupted.

    Args:
        source: a folder with the CT series and, anywhere below it, their XML files.
        to: the folder for the arrays; about 80 MB a scan.
        flamby_compatible: intensities and masks as in FLamby, its defects included, see README.md.
        workers: scans at a time, about 1.5 GB of memory each; by default, one for each core.

    Returns:
        ``to``. Scans that cannot be prepared are left out and listed under "failed" in the manifest.

    Raises:
        DatasetError: no scan can be prepared, or ``to`` holds data that were prepared in another way.
    """
    plan = _preparation(Path(source), flamby_compatible=flamby_compatible)
    return run_preparation(plan, to, workers=workers, show_progress=show_progress)


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
        data_path: a prepared folder, which is returned as it is, or a folder of raw data.
        to: where to prepare raw data; by default beside them, in ``<name>-prepared``.

    Raises:
        DatasetError: there are no data, or they were prepared in the other way (see ``flamby_compatible``).
    """
    return preparation.ensure(
        data_path,
        partial(_preparation, flamby_compatible=flamby_compatible),
        dataset=DATASET,
        parameters=parameters(flamby_compatible),
        how_to_get_it=HOW_TO_GET_IT,
        suffix="-as-flamby" if flamby_compatible else "",
        to=to,
        workers=workers,
        show_progress=show_progress,
    )


def parameters(flamby_compatible: bool) -> dict[str, Any]:
    """What prepared data depend on, as their manifest has it."""
    return {
        "format": 1,
        "spacing_mm": 1.0,
        "intensities": "repaired as in FLamby" if flamby_compatible else "rescale tags",
        "masks": "as in FLamby" if flamby_compatible else "inside of outlines",
    }


def prepare_scan(scan: Scan, *, flamby_compatible: bool = False) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """One scan's arrays, see the module's text; and its shape, own spacing, lowest value and number of readers.

    Raises:
        DatasetError: its files cannot be read or do not fit each other.
    """
    if scan.problem or scan.annotations is None:
        raise DatasetError(scan.problem)
    readings = read_annotations(scan.annotations)
    series = read_series(scan.files, flamby_compatible=flamby_compatible)
    resize = to_one_mm_as_flamby if flamby_compatible else to_one_mm
    repair = hounsfield_as_flamby if flamby_compatible else hounsfield
    values = resize(repair(series.volume), series.spacing)
    # Half a unit of 1624 is far below a scanner's noise, and 16 bit are half of what must be read in training.
    units = np.rint(values, out=values).clip(-32768, 32767, out=values).astype(np.int16)
    # To (x, y, z) in memory as well, which torch does several times as fast as numpy.
    image = torch.from_numpy(units).contiguous().numpy()
    del values, units
    readers = np.zeros(image.shape, dtype=np.uint8)
    for number, reading in enumerate(readings):
        mask = nodule_mask_as_flamby(reading, series) if flamby_compatible else nodule_mask(reading.nodules, series)
        _add_reader(readers, mask, series, number, flamby_compatible)
    voxels = np.argwhere(readers).astype(np.int16)
    arrays: dict[str, NDArray[Any]] = {"image": image, "voxels": voxels, "readers": readers[tuple(voxels.T)]}
    found: dict[str, Any] = {
        "shape": list(image.shape),
        "spacing_mm": [round(mm, 6) for mm in series.spacing],
        "lowest": int(image.min()),
        "num_readers": len(readings),
    }
    return arrays, found


def hounsfield(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Intensities from -1024 up; trusts the rescale tags.

    Raises:
        DatasetError: there is no air in the scan, so its rescale tags cannot be right.
    """
    lowest = float(volume.min())
    if lowest > -200:
        raise DatasetError(
            f"its lowest value is {lowest:g} HU, so there is no air in it: its rescale tags cannot be right"
        )
    return np.maximum(volume, np.float32(_LOWEST))


def hounsfield_as_flamby(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """FLamby's repair, which guesses from the values whether they are Hounsfield units."""
    lowest = float(volume.min())
    if lowest < -1:
        volume = np.maximum(volume, np.float32(_LOWEST))
    if lowest > -1:
        volume = volume - np.float32(1024)
    if volume.mean(dtype=np.float64) > -50:
        volume = np.maximum(volume - np.float32(1024), np.float32(_LOWEST))
    return volume


def _preparation(source: Path, *, flamby_compatible: bool) -> Preparation:
    scans = {scan.uid: scan for scan in find_scans(source)}
    if both := patients_in_both_folds(scans.values()):
        warnings.warn(
            f"patients with scans in both training and test: {both}; the published folds are by scan, not by patient",
            stacklevel=2,
        )
    return Preparation(
        dataset=DATASET,
        parameters=parameters(flamby_compatible),
        items=[Item(scan.uid, scan.num_bytes, {"center": scan.center, "split": scan.split}) for scan in scans.values()],
        work=lambda item: prepare_scan(scans[item.id], flamby_compatible=flamby_compatible),
        libraries=("numpy", "torch", "pydicom", "scikit-image", "scikit-learn"),
        bytes_an_item=min(_BYTES_A_SCAN, 3 * max(scan.num_bytes[0] for scan in scans.values())),
        label="Preparing LIDC-IDRI",
    )


def _add_reader(readers: NDArray[np.uint8], mask: Mask, series: Series, number: int, flamby_compatible: bool) -> None:
    """Sets a reader's bit in the 1 mm volume where more than half of a voxel is in the reader's mask."""
    if not mask.any():
        return
    bit = np.uint8(1 << number)
    if flamby_compatible:
        readers[to_one_mm_as_flamby(mask.astype(np.float32), series.spacing) > 0.5] |= bit
    else:
        place, inside = mask_to_one_mm(mask, readers.shape)
        readers[place] |= bit * inside
