"""Tiles that are given and not looked for: a table such as FLamby's ``tiling_coordinates_camelyon16.csv``.

Its columns are ``slide_name``, ``coords_x`` and ``coords_y``: the upper left corner of a tile in pixels of level 0.
FLamby reads 224 x 224 pixels of level 1 there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.fed_camelyon16.slides import ENDINGS
from polyclinic.datasets.fed_camelyon16.tiling import TILE, Grid
from polyclinic.errors import DatasetError

COLUMNS = ("slide_name", "coords_x", "coords_y")
Corners = NDArray[np.int64]  # (n, 2) x, y


def read_corners(path: Path) -> dict[str, Corners]:
    """Slide name in lower case, without ending -> corners in the table's order.

    Raises:
        DatasetError: the file cannot be read, lacks a column, or has a corner that is no pair of whole numbers >= 0.
    """
    import pandas as pd

    try:
        table = pd.read_csv(path, usecols=list(COLUMNS), dtype={"slide_name": str})
        xy = table[list(COLUMNS[1:])].to_numpy(dtype=np.float64)
    except (OSError, ValueError) as err:
        raise DatasetError(
            f"{path} is no table of tiles: {str(err).partition(chr(10))[0]}",
            to_do=f"give a CSV file with the columns {', '.join(COLUMNS)}",
        ) from err
    if not len(xy) or not np.isfinite(xy).all() or (xy < 0).any() or (xy % 1).any() or table["slide_name"].isna().any():
        raise DatasetError(
            f"{path} is no table of tiles: a slide's name is missing, or a corner is no pair of whole pixels",
            to_do=f"give a CSV file with the columns {', '.join(COLUMNS)}",
        )
    corners = xy.astype(np.int64)
    return {_plain(str(name)): corners[rows] for name, rows in table.groupby("slide_name", sort=True).indices.items()}


def corners_in(given: Mapping[str, Corners], name: str, size: tuple[int, int], grid: Grid) -> Corners:
    """Those of one slide.

    Raises:
        DatasetError: there are none, or one tile is not inside of the slide.
    """
    if name not in given:
        raise DatasetError("the table of tiles has none of this slide")
    outside = (given[name] + grid.step > np.array(size)).any(axis=1)
    if outside.any():
        raise DatasetError(f"{int(outside.sum())} tiles of the table are outside of the slide, {size[0]} x {size[1]}")
    return given[name]


def grid_of_given(slide: Any) -> Grid:
    """Level 1, as FLamby reads all slides."""
    level = min(1, len(slide.level_downsamples) - 1)
    downsample = slide.level_downsamples[level]
    finest = slide.properties.get("openslide.mpp-x")
    return Grid(level, TILE, round(TILE * downsample), None if finest is None else float(finest) * downsample)


def _plain(name: str) -> str:
    path = Path(name.lower())
    return path.stem if path.suffix in ENDINGS else path.name
