"""Features that FLamby computed: a folder with ``tumor_001.tif.npy`` (n, d) float32 for each slide, side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.fed_camelyon16.slides import ENDINGS, LEFT_OUT
from polyclinic.errors import DatasetError


def find_features(folder: Path) -> dict[str, Path]:
    """Name in lower case -> file, by name, of all .npy files in a folder; none if there are none."""
    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.npy")) if folder.is_dir() else ():
        slide = Path(path.stem.lower())
        name = slide.stem if slide.suffix in ENDINGS else slide.name
        if name not in LEFT_OUT and not name.startswith("."):
            found[name] = path
    return dict(sorted(found.items()))


def dimension_of(path: Path) -> int:
    """d, by a file's header."""
    return int(_map(path).shape[1])


def read_features(path: Path, dimension: int) -> NDArray[np.float32]:
    """(n, d) of one slide.

    Raises:
        DatasetError: the file holds something else, or features of another dimension.
    """
    features = np.array(_map(path), dtype=np.float32)
    if features.shape[1] != dimension:
        raise DatasetError(f"{path.name} has {features.shape[1]} features a tile, others have {dimension}")
    if not len(features):
        raise DatasetError(f"{path.name} has no tile")
    if not np.isfinite(features).all():
        raise DatasetError(f"{path.name} has features that are not finite")
    return features


def _map(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as err:
        raise DatasetError(f"{path.name} is no array of features: {err}") from err
    if array.ndim != 2 or array.dtype.kind != "f":
        raise DatasetError(f"{path.name} is no array of features: {array.shape} {array.dtype}, not (n, d) floats")
    return array
