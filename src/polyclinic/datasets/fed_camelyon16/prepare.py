"""Camelyon16: from slides to features of their tiles.

What comes of a slide: ``features`` (n, d) float32, ``corners`` (n, 2) int64, the tiles' upper left corners x, y in
pixels of level 0, and, where there are outlines of its metastases, ``tumour_fraction`` (n,) float32.
Labels are no part of it: they follow from the slide's name, so features serve whatever is decided about labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.fed_camelyon16.annotations import find_annotations, read_annotations, tumour_fraction
from polyclinic.datasets.fed_camelyon16.encoders import LoadedEncoder, load_encoder
from polyclinic.datasets.fed_camelyon16.flamby_features import dimension_of, find_features, read_features
from polyclinic.datasets.fed_camelyon16.slides import CENTERS, HOW_TO_GET_IT, find_slides, slide_of
from polyclinic.datasets.fed_camelyon16.tile_corners import Corners, corners_in, grid_of_given, read_corners
from polyclinic.datasets.fed_camelyon16.tiling import MPP, TILE, TISSUE, grid_of, open_slide, read_tile
from polyclinic.datasets.fed_camelyon16.tiling import tiles as find_tiles
from polyclinic.datasets.preparation import Item, Preparation, ensure, run_preparation
from polyclinic.datasets.prepared import MANIFEST, read_manifest, require_same_parameters
from polyclinic.datasets.prepared_files import sha256
from polyclinic.errors import DatasetError

NAME = "fed_camelyon16"
_FORMAT = 1  # to be raised when features are made in another way
Tile = tuple[tuple[int, int], NDArray[np.uint8]]  # corner x, y in pixels of level 0; (224, 224, 3)
_BATCH = 64  # tiles at a time
_BYTES_A_SLIDE = 125_000_000  # 50 GB for 399 slides


def prepare(
    source: str | Path,
    to: str | Path,
    *,
    flamby_compatible: bool = False,  # noqa: ARG001
    encoder: str = "resnet50",
    weights: str | Path | None = None,
    annotations: str | Path | None = None,
    tiles: str | Path | None = None,
    workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """Prepares raw slides, or goes on with a preparation that was interrupted; finished slides are not done again.

    Args:
        source: the folder in which the slides lie side by side, or one with such a folder ``images``; or a folder
            of features that FLamby made, which are taken as they are.
        to: the folder for the features; 8 kB a tile, 50 GB for all slides.
        flamby_compatible: changes nothing here: what differs from FLamby is decided when the features are loaded.
        encoder: "resnet50" or "phikon", see `encoders`.
        weights: their file; "random"; or None for the usual ones, see `load_encoder`.
        annotations: a folder with outlines of metastases; by default ``annotations`` in ``source`` if it is there.
        tiles: a table of the tiles to take, such as FLamby's, see `tile_corners`; by default they are looked for.
        workers: slides at a time; by default, one for each core.

    Returns:
        ``to``. Slides that cannot be read or show no tissue are left out and listed under "failed" in the manifest.

    Raises:
        ConfigError: no such encoder, or one whose weights have to be given.
        DatasetError: not one slide can be read, ``tiles`` is no such table, or ``to`` holds data that were prepared in
            another way.
    """
    preparation = _preparation(Path(source), encoder, weights, annotations, tiles)
    return run_preparation(preparation, to, workers=workers, show_progress=show_progress)


def ensure_prepared(
    data_path: str | Path | None,
    *,
    encoder: str = "resnet50",
    weights: str | Path | None = None,
    to: str | Path | None = None,
    workers: int | None = None,
    show_progress: bool = True,
) -> Path:
    """The prepared folder for a path to raw or prepared data; raw data are prepared, once, beside them.

    A prepared folder is taken as it is, whatever encoder and weights it was made with.

    Raises:
        DatasetError: there are no data.
    """
    if data_path is not None and (Path(data_path) / MANIFEST).is_file():
        there = read_manifest(Path(data_path), NAME)["parameters"]
        require_same_parameters({"format": there.get("format")}, {"format": _FORMAT}, Path(data_path))
        return Path(data_path)
    return ensure(
        data_path,
        lambda path: _preparation(path, encoder, weights),
        dataset=NAME,
        parameters={},  # not looked at: prepared folders do not come here
        how_to_get_it=HOW_TO_GET_IT,
        suffix="" if encoder == "resnet50" else f"-{encoder}",
        to=to,
        workers=workers,
        show_progress=show_progress,
    )


def _preparation(
    source: Path,
    encoder: str,
    weights: str | Path | None,
    annotations: str | Path | None = None,
    tiles: str | Path | None = None,
) -> Preparation:
    if features := find_features(source):
        return _of_features(features)
    files = find_slides(source)
    outlines: dict[str, Path] = {}
    if annotations is not None or (source / "annotations").is_dir():
        outlines = find_annotations(Path(annotations or source / "annotations"))
    given = None if tiles is None else read_corners(Path(tiles))
    loaded = load_encoder(encoder, weights)
    parameters = {"format": _FORMAT, "encoder": encoder, "weights": loaded.weights}
    parameters |= {"tile": TILE, "mpp": MPP, "tissue": TISSUE}
    if tiles is not None:
        parameters["tiles"] = sha256(Path(tiles))

    def work(item: Item) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        slide_of(item.id)
        return features_of(files[item.id], loaded, outlines.get(item.id), given)

    return Preparation(
        dataset=NAME,
        parameters=parameters,
        items=[
            Item(name, tuple(p.stat().st_size for p in (path, outlines.get(name)) if p is not None), _facts(name))
            for name, path in files.items()
        ],
        work=work,
        libraries=("numpy", "openslide-python", "pillow", "scikit-image", "torch"),
        bytes_an_item=_BYTES_A_SLIDE if _is_large(files) else 0,
        label="Tiling slides",
    )


def _of_features(files: dict[str, Path]) -> Preparation:
    """Features that FLamby made are taken as they are; of their tiles nothing is known."""
    dimension = dimension_of(next(iter(files.values())))

    def work(item: Item) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        slide_of(item.id)
        features = read_features(files[item.id], dimension)
        return {"features": features}, {"num_tiles": len(features)}

    return Preparation(
        dataset=NAME,
        parameters={"format": _FORMAT, "encoder": "given", "dimension": dimension},
        items=[Item(name, (path.stat().st_size,), _facts(name)) for name, path in files.items()],
        work=work,
        bytes_an_item=max(path.stat().st_size for path in files.values()),
        label="Reading features",
    )


def _is_large(files: dict[str, Path]) -> bool:
    """Whether these are slides of real size; a few tiles need no look at the disk."""
    return sum(path.stat().st_size for path in files.values()) > len(files) * 100_000_000


def _facts(name: str) -> dict[str, Any]:
    try:
        slide = slide_of(name)
    except DatasetError:
        return {}  # it is going to be listed among those that failed
    return {"center": slide.center, "hospital": CENTERS[slide.center], "split": slide.split}


def features_of(
    path: Path, encoder: LoadedEncoder, outlines: Path | None = None, given: Mapping[str, Corners] | None = None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """The arrays of one slide, and what was found on the way; at any time 64 tiles are in memory.

    Args:
        outlines: the file of this slide's annotations.
        given: the corners of each slide's tiles; None to look for tiles with tissue.

    Raises:
        DatasetError: the slide or its outlines cannot be read, it shows no tissue, or ``given`` does not fit it.
    """
    drawn = None if outlines is None else read_annotations(outlines)
    with open_slide(path) as slide:
        if given is None:
            grid = grid_of(slide)
            found = list(_encoded(find_tiles(slide, grid), encoder))
        else:
            grid = grid_of_given(slide)
            corners = corners_in(given, path.stem.lower(), slide.dimensions, grid)
            read = (((int(x), int(y)), read_tile(slide, grid, int(x), int(y))) for x, y in corners)
            found = list(_encoded(read, encoder))
    if not found:
        raise DatasetError(f"{path.name} shows no tissue")
    corners = np.concatenate([corner for corner, _ in found])
    features = np.concatenate([feature for _, feature in found])
    arrays: dict[str, NDArray[Any]] = {"features": features, "corners": corners}
    facts: dict[str, Any] = {"num_tiles": len(corners), "level": grid.level, "tile_mpp": grid.mpp, "step": grid.step}
    if drawn is not None:
        arrays["tumour_fraction"] = tumour_fraction(drawn, corners, grid.step)
        facts["tumour_tiles"] = int((arrays["tumour_fraction"] >= 0.5).sum())
    return arrays, facts


def _encoded(tiles: Iterable[Tile], encoder: LoadedEncoder) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Corners (k, 2) and features (k, d) of up to 64 tiles at a time."""
    waiting: list[Tile] = []
    for found in tiles:
        waiting.append(found)
        if len(waiting) == _BATCH:
            yield _encode(waiting, encoder)
            waiting = []
    if waiting:
        yield _encode(waiting, encoder)


def _encode(found: list[Tile], encoder: LoadedEncoder) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    corners = np.array([corner for corner, _ in found], dtype=np.int64)
    return corners, encoder(np.stack([tile for _, tile in found]))
