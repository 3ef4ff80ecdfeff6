"""From a whole-slide image to the tiles of it that show tissue: 224 x 224 pixels of about 0.5 µm, side by side.

The rule is the published one (FLamby, which uses histolab's), in our own reading:

1. Tissue on a thumbnail: a frame of 10 pixels is painted in the mean colour, so that a dark rim of the scan is no
   tissue; then grey < Otsu's threshold, dilated by a disk of radius 1, without objects under 100 pixels.
2. A grid without overlap over the bounding box of each connected piece of tissue; a place in it counts if more than
   80 % of it lies in the piece.
3. The tile itself: not almost white (mean grey > 0.9 and deviation < 0.09), not of one colour, and more than 60 % of it
   is tissue by grey < Otsu's threshold, dilated by a disk of radius 2, with holes filled.

Otsu, A threshold selection method from gray-level histograms, IEEE Trans. Syst. Man Cybern. 1979.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import DatasetError

TILE = 224  # pixels, as the encoders see it
MPP = 0.5  # µm a pixel
THUMBNAIL = 1000  # pixels of the longer side
FRAME = 10
MIN_OBJECT = 100  # pixels of the thumbnail
IN_MASK = 0.8
TISSUE = 0.6
# A level whose pixels are this much off is still taken as it is: 0.45 and 0.49 µm are the level 1 of the two hospitals.
_NEAR = 1.25

Grey = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Grid:
    """How tiles lie in a slide: read ``side`` pixels of pyramid level ``level``, which are ``step`` of level 0."""

    level: int
    side: int
    step: int
    mpp: float | None  # µm a pixel of a tile; None when the slide does not tell


@contextmanager
def open_slide(path: Path) -> Iterator[Any]:
    """An OpenSlide object.

    Raises:
        DatasetError: OpenSlide is not installed, cannot read the file, or a part of it later on.
    """
    try:
        # Here and not above: whoever trains on prepared data does not need it.
        import openslide
    except ModuleNotFoundError as err:
        raise DatasetError(
            "reading slides needs OpenSlide, which is not installed", to_do="pip install 'polyclinic[pathology]'"
        ) from err
    try:
        with openslide.OpenSlide(path) as slide:
            yield slide
    except openslide.OpenSlideUnsupportedFormatError as err:
        raise DatasetError(f"{path.name} is no slide that OpenSlide can read") from err
    except openslide.OpenSlideError as err:
        raise DatasetError(f"{path.name} is damaged: {err}") from err


def grid_of(slide: Any) -> Grid:
    """Which pixels make a tile: of the level nearest to 0.5 µm, else more pixels of a finer one.

    A slide that does not tell its resolution is read at level 1, as FLamby reads all.

    Raises:
        DatasetError: all levels are too coarse.
    """
    downsamples = slide.level_downsamples
    try:
        finest = float(slide.properties["openslide.mpp-x"])
    except (KeyError, ValueError):
        level = min(1, len(downsamples) - 1)
        return Grid(level, TILE, round(TILE * downsamples[level]), None)
    mpp = [finest * factor for factor in downsamples]
    level = min(range(len(mpp)), key=lambda k: abs(math.log(mpp[k] / MPP)))
    if 1 / _NEAR <= mpp[level] / MPP <= _NEAR:
        return Grid(level, TILE, round(TILE * downsamples[level]), mpp[level])
    finer = [k for k in range(len(mpp)) if mpp[k] < MPP]
    if not finer:
        raise DatasetError(f"its finest level has {finest:g} µm a pixel, and {MPP} µm are needed")
    side = round(TILE * MPP / mpp[finer[-1]])
    return Grid(finer[-1], side, round(side * downsamples[finer[-1]]), MPP)


def tissue_mask(thumbnail: NDArray[np.uint8]) -> Mask:
    """(h, w) where a thumbnail (h, w, 3) shows tissue."""
    from scipy.ndimage import binary_dilation
    from skimage.color import rgb2gray
    from skimage.filters import threshold_otsu
    from skimage.measure import label
    from skimage.morphology import disk

    framed = thumbnail.copy()
    colour = thumbnail.reshape(-1, 3).mean(axis=0).astype(np.uint8)
    # One pixel less at the far sides, as published.
    framed[:FRAME], framed[:, :FRAME], framed[1 - FRAME :], framed[:, 1 - FRAME :] = colour, colour, colour, colour
    grey: Grey = rgb2gray(framed)
    if grey.min() == grey.max():
        return np.zeros(grey.shape, dtype=bool)
    tissue = binary_dilation(grey < threshold_otsu(grey), disk(1))  # type: ignore[no-untyped-call]
    pieces = label(tissue, connectivity=1)  # type: ignore[no-untyped-call]
    large = np.bincount(pieces.ravel()) >= MIN_OBJECT
    large[0] = False
    found: Mask = large[pieces]
    return found


def corners(mask: Mask, scale: tuple[float, float], step: int, size: tuple[int, int]) -> NDArray[np.int64]:
    """(n, 2) upper left corners x, y in pixels of level 0, of the places whose share of tissue is above 0.8.

    Args:
        mask: (h, w) of the thumbnail.
        scale: pixels of level 0 in a pixel of the mask, along x and y.
        step: side of a tile in pixels of level 0.
        size: width and height of the slide.
    """
    from skimage.measure import label, regionprops

    found: list[tuple[int, int]] = []
    for piece in regionprops(label(mask, connectivity=2)):  # type: ignore[no-untyped-call]
        top, left, bottom, right = piece.bbox
        # Sums over rectangles by differences of this table; one column and row of zeros in front.
        table = np.pad(piece.image.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        for y in range(round(top * scale[1]), min(round(bottom * scale[1]), size[1]) - step + 1, step):
            y0, y1 = _pixels(y / scale[1] - top, (y + step) / scale[1] - top, table.shape[0] - 1)
            for x in range(round(left * scale[0]), min(round(right * scale[0]), size[0]) - step + 1, step):
                x0, x1 = _pixels(x / scale[0] - left, (x + step) / scale[0] - left, table.shape[1] - 1)
                inside = table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0]
                if inside > IN_MASK * (y1 - y0) * (x1 - x0):
                    found.append((x, y))
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def _pixels(begin: float, end: float, size: int) -> tuple[int, int]:
    """The pixels that an interval covers, at least one."""
    first = min(round(begin), size - 1)
    return first, min(max(round(end), first + 1), size)


def shows_tissue(tile: NDArray[np.uint8]) -> bool:
    """Whether more than 60 % of a tile (224, 224, 3) is tissue."""
    from scipy.ndimage import binary_dilation, binary_fill_holes
    from skimage.color import rgb2gray
    from skimage.filters import threshold_otsu
    from skimage.morphology import disk

    grey: Grey = rgb2gray(tile)
    if (grey.mean() > 0.9 and grey.std() < 0.09) or grey.std() < 1e-3:
        return False
    tissue = grey < threshold_otsu(grey)  # type: ignore[no-untyped-call]
    # Each step only adds tissue, and the next ones take ten times as long.
    if tissue.mean() > TISSUE:
        return True
    tissue = binary_dilation(tissue, disk(2))  # type: ignore[no-untyped-call]
    return bool(tissue.mean() > TISSUE or binary_fill_holes(tissue).mean() > TISSUE)


def tiles(slide: Any, grid: Grid) -> Iterator[tuple[tuple[int, int], NDArray[np.uint8]]]:
    """Corner (x, y in pixels of level 0) and pixels (224, 224, 3) of each tile with tissue, one after the other."""
    thumbnail = np.asarray(slide.get_thumbnail((THUMBNAIL, THUMBNAIL)).convert("RGB"))
    width, height = slide.dimensions
    scale = (width / thumbnail.shape[1], height / thumbnail.shape[0])
    for x, y in corners(tissue_mask(thumbnail), scale, grid.step, (width, height)):
        tile = read_tile(slide, grid, int(x), int(y))
        if shows_tissue(tile):
            yield (int(x), int(y)), tile


def read_tile(slide: Any, grid: Grid, x: int, y: int) -> NDArray[np.uint8]:
    """(224, 224, 3) of one tile; where the scanner saw nothing it is white."""
    from PIL import Image

    region = slide.read_region((x, y), grid.level, (grid.side, grid.side))
    tile = Image.new("RGB", region.size, "white")
    tile.paste(region, mask=region.getchannel("A"))
    if grid.side != TILE:
        tile = tile.resize((TILE, TILE), Image.Resampling.BOX if grid.side % TILE == 0 else Image.Resampling.LANCZOS)
    return np.asarray(tile)
