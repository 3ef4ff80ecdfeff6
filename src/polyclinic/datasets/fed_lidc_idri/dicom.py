"""One CT series of DICOM slices as a volume in Hounsfield units.

Slices are put in order by their position along the axis of the table (DICOM PS3.3, C.7.6.2.1.1), never by file name
or InstanceNumber.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import DatasetError

if TYPE_CHECKING:
    from pydicom import Dataset

_NEEDED = ("SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns")
_RESCALE = ("RescaleSlope", "RescaleIntercept")
# Of the usual distance between slices; positions are often rounded to a tenth of a millimetre.
_UNEVEN = 0.1


@dataclass(frozen=True)
class Series:
    """A CT volume. Axes: x is the column of a slice, y its row, z the slice, upwards."""

    uid: str
    volume: NDArray[np.float32]  # (x, y, z) Hounsfield units, as the rescale tags say
    spacing: tuple[float, float, float]  # mm
    heights: NDArray[np.float64]  # (z,) position of each slice along the table, mm
    slice_uids: tuple[str, ...]  # (z,) SOPInstanceUID


@dataclass(frozen=True)
class Header:
    """What one DICOM file says of its series; empty texts where it says nothing."""

    series_uid: str
    modality: str
    manufacturer: str
    patient: str


def read_header(path: Path) -> Header:
    """Which series a DICOM file belongs to.

    Raises:
        DatasetError: it is no DICOM file, or has no SeriesInstanceUID.
    """
    header = _read(path, only=["SeriesInstanceUID", "Modality", "Manufacturer", "PatientID"])
    uid = str(header.get("SeriesInstanceUID", ""))
    if not uid:
        raise DatasetError(f"{path.name} has no SeriesInstanceUID", to_do="download the series again")
    modality, manufacturer, patient = (str(header.get(t) or "") for t in ("Modality", "Manufacturer", "PatientID"))
    return Header(uid, modality, manufacturer, patient)


def read_series(files: Sequence[Path], *, flamby_compatible: bool = False) -> Series:
    """Reads the slices of one series.

    Args:
        flamby_compatible: slices without rescale tags are taken as they are, as dicom-numpy does.

    Raises:
        DatasetError: a slice is damaged, missing or there twice, belongs to another series, or lies otherwise.
    """
    slices = [(path, _read(path)) for path in files]
    if len(slices) < 2:
        raise DatasetError(f"a series of {len(slices)} slice", to_do="download the series again")
    _require_tags(slices, () if flamby_compatible else _RESCALE)
    _require_one_stack(slices)
    along = _axis_of_table(slices[0][1])
    heights = np.array([float(np.dot(along, _numbers(header.ImagePositionPatient))) for _, header in slices])
    order = np.argsort(heights, kind="stable")
    slices, heights = [slices[k] for k in order], heights[order]
    distance = _require_even([path.name for path, _ in slices], heights)
    first = slices[0][1]
    # Lies in memory as the slices do, (z, y, x); to copy it into another order would take longer than to resample it.
    stack = np.empty((len(slices), int(first.Rows), int(first.Columns)), dtype=np.float32)
    for plane, (path, header) in zip(stack, slices, strict=True):
        plane[:] = _hounsfield(path, header)
    row_distance, column_distance = _numbers(first.PixelSpacing)
    return Series(
        str(first.SeriesInstanceUID),
        stack.transpose(2, 1, 0),
        (column_distance, row_distance, distance),
        heights,
        tuple(str(header.get("SOPInstanceUID", "")) for _, header in slices),
    )


def _read(path: Path, only: list[str] | None = None) -> Dataset:
    """A file's header, or all of it."""
    try:
        # Here and not above: whoever trains on prepared data does not need it.
        import pydicom
        from pydicom.errors import InvalidDicomError
    except ModuleNotFoundError as err:
        raise DatasetError(
            "reading DICOM files needs pydicom, which is not installed", to_do="pip install 'polyclinic[imaging]'"
        ) from err
    try:
        if only is not None:
            return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(only))
        return pydicom.dcmread(path)
    # A file that is cut off in its header fails in whatever part of pydicom was reading.
    except (InvalidDicomError, OSError, EOFError, ValueError, KeyError, NotImplementedError, AttributeError) as err:
        raise DatasetError(
            f"{path.name} is not a readable DICOM file: {err}", to_do="download the series again"
        ) from err


def _require_tags(slices: Sequence[tuple[Path, Dataset]], rescale: tuple[str, ...]) -> None:
    for path, header in slices:
        missing = [tag for tag in (*_NEEDED, *rescale) if header.get(tag) is None]
        if missing:
            raise DatasetError(f"{path.name} lacks {', '.join(missing)}", to_do="download the series again")


def _require_one_stack(slices: Sequence[tuple[Path, Dataset]]) -> None:
    """DatasetError if slices differ in what all slices of a stack share."""
    first_path, first = slices[0]
    for path, header in slices[1:]:
        if header.SeriesInstanceUID != first.SeriesInstanceUID:
            raise DatasetError(
                f"{first_path.name} and {path.name} belong to different series", to_do="keep one series in a folder"
            )
        if not np.allclose(
            _numbers(header.ImageOrientationPatient), _numbers(first.ImageOrientationPatient), atol=1e-3
        ):
            raise DatasetError(
                f"{first_path.name} and {path.name} have different orientations", to_do="keep one stack in a folder"
            )
        same_grid = (header.Rows, header.Columns) == (first.Rows, first.Columns)
        if not same_grid or not np.allclose(_numbers(header.PixelSpacing), _numbers(first.PixelSpacing)):
            raise DatasetError(
                f"{first_path.name} and {path.name} differ in size or pixel spacing", to_do="keep one stack in a folder"
            )


def _axis_of_table(header: Dataset) -> NDArray[np.float64]:
    """The unit vector across the slices; of its two directions the one that goes up, right or back most."""
    orientation = np.array(_numbers(header.ImageOrientationPatient))
    normal = np.cross(orientation[:3], orientation[3:])
    largest = normal[np.argmax(np.abs(normal))]
    if not np.isclose(np.linalg.norm(normal), 1, atol=1e-2):
        raise DatasetError("the rows and columns of its slices are not at right angles")
    return np.asarray(normal * np.sign(largest), dtype=np.float64)


def _require_even(names: Sequence[str], heights: NDArray[np.float64]) -> float:
    """The distance between slices, mm; DatasetError if one is missing or there twice."""
    gaps = np.diff(heights)
    usual = float(np.median(gaps))
    twice = np.flatnonzero(gaps < max(_UNEVEN * usual, 1e-3))
    if twice.size:
        k = int(twice[0])
        raise DatasetError(f"duplicate slices: {names[k]} and {names[k + 1]} lie at the same height, {heights[k]:g} mm")
    wide = np.flatnonzero(np.abs(gaps - usual) > _UNEVEN * usual)
    if wide.size:
        k = int(wide[0])
        raise DatasetError(
            f"slices are missing or unevenly spaced: {gaps[k]:g} mm between {names[k]} and {names[k + 1]}, "
            f"{usual:g} mm elsewhere"
        )
    return float((heights[-1] - heights[0]) / (len(heights) - 1))


def _hounsfield(path: Path, header: Dataset) -> NDArray[np.float32]:
    """(rows, columns) of one slice."""
    try:
        stored: NDArray[Any] = header.pixel_array
    # What a cut-off or oddly packed file raises depends on pydicom's decoder.
    except (AttributeError, ValueError, RuntimeError, NotImplementedError, OSError) as err:
        raise DatasetError(
            f"{path.name}: its pixels cannot be read: {str(err).splitlines()[0]}", to_do="download the series again"
        ) from err
    if stored.ndim != 2:
        raise DatasetError(f"{path.name} holds an image of {stored.ndim} axes, expected 2")
    values = stored.astype(np.float32)
    values *= np.float32(header.get("RescaleSlope", 1))
    values += np.float32(header.get("RescaleIntercept", 0))
    return values


def _numbers(values: Any) -> list[float]:
    return [float(value) for value in values]
