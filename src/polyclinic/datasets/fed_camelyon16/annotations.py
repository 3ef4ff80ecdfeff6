"""Outlines of metastases that pathologists drew, and how much of each tile lies in them.

Two forms are read: the XML that the organisers publish (ASAP's format, in which the groups _0, _1 and Tumor are
tumour and _2 and Exclusion are holes in it), and JSON with "positive" and "negative" lists of polygons, into which
several projects have brought it. Both give vertices in pixels of level 0.
"""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import DatasetError

_HOLES = {"_2", "exclusion"}
_POINTS = 16  # along each side of a tile, at which it is looked whether they lie in a polygon

Polygon = NDArray[np.float64]  # (n, 2) x, y


@dataclass(frozen=True)
class Annotations:
    """Polygons around tumour, and around what is no tumour inside of them."""

    tumour: tuple[Polygon, ...]
    holes: tuple[Polygon, ...]


def find_annotations(folder: Path) -> dict[str, Path]:
    """Slide name in lower case -> file, of the .xml and .json files in a folder."""
    if not folder.is_dir():
        raise DatasetError(f"there is no folder {folder}", to_do="give the folder with files like tumor_001.xml")
    return {path.stem.lower(): path for path in sorted(folder.iterdir()) if path.suffix.lower() in (".xml", ".json")}


def read_annotations(path: Path) -> Annotations:
    """The polygons of one slide.

    Raises:
        DatasetError: the file has another form.
    """
    try:
        parts = _from_xml(path) if path.suffix.lower() == ".xml" else _from_json(path)
        polygons = [(is_hole, np.array(points, dtype=np.float64)) for is_hole, points in parts]
        if any(points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all() for _, points in polygons):
            raise ValueError("a polygon is no list of x, y")
    except (ET.ParseError, ValueError, KeyError, TypeError, AttributeError) as err:
        raise DatasetError(f"{path.name} is no file of annotations: {type(err).__name__}: {err}") from err
    # A stroke of one or two points surrounds nothing.
    polygons = [(is_hole, points) for is_hole, points in polygons if len(points) > 2]
    return Annotations(
        tumour=tuple(points for is_hole, points in polygons if not is_hole),
        holes=tuple(points for is_hole, points in polygons if is_hole),
    )


def _from_json(path: Path) -> list[tuple[bool, Any]]:
    content = json.loads(path.read_text("utf-8"))
    return [(kind == "negative", part["vertices"]) for kind in ("positive", "negative") for part in content[kind]]


def _from_xml(path: Path) -> list[tuple[bool, Any]]:
    found: list[tuple[bool, Any]] = []
    root = ET.parse(path).getroot()
    if root.tag != "ASAP_Annotations":
        raise ValueError(f"its root is {root.tag}, not ASAP_Annotations")
    for annotation in root.iter("Annotation"):
        points = sorted(annotation.iter("Coordinate"), key=lambda point: int(point.attrib["Order"]))
        is_hole = annotation.attrib.get("PartOfGroup", "").lower() in _HOLES
        found.append((is_hole, [(float(point.attrib["X"]), float(point.attrib["Y"])) for point in points]))
    return found


def tumour_fraction(annotations: Annotations, corners: NDArray[np.int64], step: int) -> NDArray[np.float32]:
    """(n,) share of each tile that is tumour, in [0, 1], in steps of 1/256.

    Args:
        corners: (n, 2) upper left corners x, y in pixels of level 0.
        step: side of a tile in pixels of level 0.
    """
    steps = (np.arange(_POINTS) + 0.5) * step / _POINTS
    offsets = np.stack(np.meshgrid(steps, steps), axis=-1).reshape(-1, 2)
    inside = np.zeros((len(corners), len(offsets)), dtype=bool)
    for polygon in annotations.tumour:
        _mark(inside, True, polygon, corners, step, offsets)
    for polygon in annotations.holes:
        _mark(inside, False, polygon, corners, step, offsets)
    share: NDArray[np.float32] = inside.mean(axis=1, dtype=np.float64).astype(np.float32)
    return share


def _mark(
    inside: NDArray[np.bool_],
    value: bool,
    polygon: Polygon,
    corners: NDArray[np.int64],
    step: int,
    offsets: NDArray[np.float64],
) -> None:
    """Sets the points that lie in a polygon."""
    from matplotlib.path import Path as Outline

    low, high = polygon.min(axis=0), polygon.max(axis=0)
    touched = np.flatnonzero(((corners < high) & (corners + step > low)).all(axis=1))
    outline = Outline(polygon)
    for row in touched:
        inside[row, outline.contains_points(corners[row] + offsets)] = value
