"""The XML files of the LIDC readers, and the masks that they stand for.

Each of up to four radiologists outlined each nodule of 3 mm and more, slice by slice. An outline is the border just
outside of the nodule: "the outline itself did not overlap pixels belonging to the nodule" (Armato et al., Med. Phys.
2011, 38:915). Its points are pixels of the image, counted from 0. So a nodule is what lies strictly inside of its
outlines, and the same holds for the regions that a reader excluded, such as cavities, whose outlines are no lesion.
A nodule of less than 3 mm is marked by one point and is no part of a mask.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.fed_lidc_idri.dicom import Series
from polyclinic.errors import DatasetError

Mask = NDArray[np.bool_]

MOST_READERS = 8  # the collection has four; a reader is a bit of a byte in prepared data


@dataclass(frozen=True)
class Outline:
    """One outline of one nodule on one slice."""

    height: float  # the slice's position along the table, mm
    slice_uid: str
    inclusion: bool  # False: what is inside is no lesion
    points: NDArray[np.int64]  # (n, 2) x (column) and y (row), from 0


@dataclass(frozen=True)
class Reading:
    """What one radiologist marked: nodules, each with its outlines, and places that are none."""

    nodules: tuple[tuple[Outline, ...], ...]
    non_nodules: tuple[Outline, ...]


def series_uid_of(path: Path) -> str:
    """The SeriesInstanceUID that an XML file belongs to; "" for a file of another kind, such as chest X-rays.

    Reads no further than the header: a file has up to a megabyte of outlines, and an archive has 1300 files.
    """
    try:
        for _, element in ElementTree.iterparse(path):
            name = element.tag.rpartition("}")[2]
            if name == "SeriesInstanceUid":
                return (element.text or "").strip()
            if name == "ResponseHeader":
                return ""
    except (ElementTree.ParseError, OSError, UnicodeDecodeError) as err:
        raise _unreadable(path, err) from err
    return ""


def read_annotations(path: Path) -> tuple[Reading, ...]:
    """The readings of one scan.

    Raises:
        DatasetError: the file is damaged, or holds no reading or too many.
    """
    readings = tuple(_reading(session) for session in _parse(path).findall("readingSession"))
    if not 0 < len(readings) <= MOST_READERS:
        raise DatasetError(
            f"{path.name} holds {len(readings) or 'no'} readings, expected 1 to {MOST_READERS}",
            to_do="download the annotations again",
        )
    return readings


def nodule_mask(nodules: Sequence[Sequence[Outline]], series: Series) -> Mask:
    """(x, y, z) of what one reader outlined, nodules that overlap included.

    Raises:
        DatasetError: an outline lies on no slice of the series, or outside of the image.
    """
    mask = np.zeros(series.volume.shape, dtype=np.bool_)
    for outlines in nodules:
        planes: dict[int, Mask] = {}
        # Exclusions last: they cut holes into what the same nodule's other outlines fill, and into no other nodule.
        for outline in sorted(outlines, key=lambda o: not o.inclusion):
            if len(outline.points) > 1:
                plane = planes.setdefault(_slice_of(outline, series), np.zeros(mask.shape[:2], dtype=np.bool_))
                _draw(plane, outline)
        for z, plane in planes.items():
            mask[:, :, z] |= plane
    return mask


def nodule_mask_as_flamby(reading: Reading, series: Series) -> Mask:
    """(x, y, z) by FLamby's rules: overlaps and nodules with one outline are lost, exclusions are filled.

    An outline fills its polygon from the smallest row and column to one below the largest.
    """
    from skimage.draw import polygon

    marks = np.zeros(series.volume.shape, dtype=np.uint8)
    try:
        for outlines in reading.nodules:
            planes: dict[int, NDArray[np.uint8]] = {}
            for outline in outlines:
                z = _nearest_slice(outline, series)
                x, y = outline.points.T
                if len(outlines) == 1:
                    marks[x, y, z] = 2
                    continue
                low = outline.points.min(axis=0)
                inside = polygon(x - low[0], y - low[1], tuple(outline.points.max(axis=0) - low))  # type: ignore[no-untyped-call]
                plane = planes.setdefault(z, np.zeros(marks.shape[:2], dtype=np.uint8))
                plane[inside[0] + low[0], inside[1] + low[1]] = 1
            for z, plane in planes.items():
                marks[:, :, z] += plane
        for place in reading.non_nodules:
            x, y = place.points.T
            marks[y, x, _nearest_slice(place, series)] = 3
    except IndexError:
        pass  # FLamby ends a reader's session here, and keeps what it has
    mask: Mask = marks == 1
    return mask


def _draw(plane: Mask, outline: Outline) -> None:
    """Fills an outline's inside on one slice (x, y); an exclusion clears its inside and its border."""
    from skimage.draw import polygon, polygon_perimeter

    points = outline.points
    if (points < 0).any() or (points >= plane.shape).any():
        raise DatasetError(
            f"an outline reaches pixel {points.max(axis=0).tolist()}, outside of an image of {list(plane.shape)}"
        )
    x, y = points.T
    filled = polygon(x, y, plane.shape)  # type: ignore[no-untyped-call]
    border = polygon_perimeter(x, y, plane.shape)
    if not outline.inclusion:
        plane[filled] = False
        plane[border] = False
        return
    inside = np.zeros_like(plane)
    inside[filled] = True
    inside[border] = False
    # An outline that encloses nothing is all that there is of the nodule on this slice.
    if not inside.any():
        inside[border] = True
    plane |= inside


def _slice_of(outline: Outline, series: Series) -> int:
    """The number of the outline's slice: by its UID, else by its height."""
    if outline.slice_uid and outline.slice_uid in series.slice_uids:
        return series.slice_uids.index(outline.slice_uid)
    nearest = _nearest_slice(outline, series)
    if abs(series.heights[nearest] - outline.height) > 0.6 * series.spacing[2]:
        raise DatasetError(
            f"an outline at {outline.height:g} mm lies on no slice; they go from {series.heights[0]:g} to "
            f"{series.heights[-1]:g} mm",
            to_do="check that the annotations are those of this series, and that no slice is missing",
        )
    return nearest


def _nearest_slice(outline: Outline, series: Series) -> int:
    return int(np.argmin(np.abs(series.heights - outline.height)))


def _reading(session: ElementTree.Element) -> Reading:
    nodules = tuple(
        tuple(_outline(roi, "edgeMap") for roi in nodule.findall("roi"))
        for nodule in session.findall("unblindedReadNodule")
    )
    places = tuple(_outline(place, "locus") for place in session.findall("nonNodule"))
    return Reading(nodules, places)


def _outline(element: ElementTree.Element, points: str) -> Outline:
    try:
        coordinates = [[int(_text(p, "xCoord")), int(_text(p, "yCoord"))] for p in element.findall(points)]
        height = float(_text(element, "imageZposition"))
    except ValueError as err:
        raise DatasetError(
            "an outline has a coordinate that is no number", to_do="download the annotations again"
        ) from err
    if not coordinates:
        raise DatasetError("an outline has no points", to_do="download the annotations again")
    inclusion = _text(element, "inclusion").upper() != "FALSE"
    return Outline(height, _text(element, "imageSOP_UID"), inclusion, np.array(coordinates, dtype=np.int64))


def _parse(path: Path) -> ElementTree.Element:
    """The root element, with namespaces taken off all names."""
    try:
        root = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError, UnicodeDecodeError) as err:
        raise _unreadable(path, err) from err
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def _unreadable(path: Path, err: Exception) -> DatasetError:
    return DatasetError(f"{path.name} is no readable XML: {err}", to_do="download the annotations again")


def _text(element: ElementTree.Element, name: str) -> str:
    return (element.findtext(name) or "").strip()
