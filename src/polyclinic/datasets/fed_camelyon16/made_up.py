"""Made-up slides in the organisers' format: tiled pyramidal TIFF, 0.25 µm a pixel, with outlines in ASAP's XML."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.fed_camelyon16.slides import CENTERS, Slide, published_slides
from polyclinic.errors import ConfigError, DatasetError

SIZE = 1600  # pixels of level 0
_MPP = 0.25
_WHITE, _PINK, _PURPLE, _DARK = (244, 242, 244), (208, 136, 182), (150, 88, 166), (100, 52, 130)
# The scanner of the second hospital makes paler pictures, so that centers differ.
_PALER = (0, 24)


def mock(to: str | Path, patients_per_center: int = 6, seed: int = 0) -> Path:
    """Writes made-up slides: tissue in pink and purple on white, in half of the slides with a darker tumour.

    Names are published ones. A third of each center, at least two, are test slides; both parts have both labels.
    About 1 MB a slide, with 5 tiles or so.

    Args:
        patients_per_center: slides, from 4 to 100.
        seed: the same seed writes the same bytes.
    """
    if not 4 <= patients_per_center <= 100:
        raise ConfigError(
            f"cannot make {patients_per_center} slides per center",
            to_do="ask for 4 to 100: two for training and two for test, of either label",
        )
    folder = Path(to)
    (folder / "annotations").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    num_test = max(2, round(patients_per_center / 3))
    for center in range(len(CENTERS)):
        for split, wanted in (("train", patients_per_center - num_test), ("test", num_test)):
            for label, count in ((0, wanted - wanted // 2), (1, wanted // 2)):
                fitting = [s for s in published_slides() if (s.center, s.split, s.label) == (center, split, label)]
                for slide in fitting[:count]:
                    _write(folder, slide, rng)
    return folder


def _write(folder: Path, slide: Slide, rng: np.random.Generator) -> None:
    middle = SIZE / 2 + rng.normal(0, 20, 2)
    tissue = _outline(middle, SIZE * rng.uniform(0.41, 0.44), rng)
    tumour = _outline(middle + rng.normal(0, 60, 2), SIZE * 0.2, rng) if slide.label else None
    write_slide(folder / f"{slide.name}.tif", _paint(tissue, tumour, _PALER[slide.center], rng))
    if tumour is not None:
        _write_annotations(folder / "annotations" / f"{slide.name}.xml", tumour)


def _outline(middle: NDArray[np.float64], radius: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """(n, 2) vertices x, y of an uneven disk."""
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    waves = sum(rng.normal(0, 0.012) * np.cos(k * angles + rng.uniform(0, 6)) for k in range(2, 6))
    edge: NDArray[np.float64] = radius * (1 + waves) * np.stack([np.cos(angles), np.sin(angles)])
    return np.round(middle + edge.T)


def _paint(
    tissue: NDArray[np.float64], tumour: NDArray[np.float64] | None, paler: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """(SIZE, SIZE, 3) picture: cells are spots of the same size everywhere, and denser in tumour."""
    from scipy.ndimage import gaussian_filter

    # At half the size, then doubled: what is 4 pixels wide needs no finer drawing.
    shape = (SIZE // 2, SIZE // 2)
    spots = gaussian_filter(rng.standard_normal(shape), 2.0)
    spots /= spots.std()
    picture = np.full((*shape, 3), _WHITE, dtype=np.uint8)
    is_tissue = _inside(tissue / 2)
    picture[is_tissue] = _PINK
    picture[is_tissue & (spots > 0.2)] = _PURPLE
    if tumour is not None:
        picture[is_tissue & _inside(tumour / 2) & (spots > -0.6)] = _DARK
    picture = np.minimum(picture.astype(np.int16) + paler, 250).astype(np.uint8)
    return picture.repeat(2, axis=0).repeat(2, axis=1)


def _inside(outline: NDArray[np.float64]) -> NDArray[np.bool_]:
    from PIL import Image, ImageDraw

    mask = Image.new("1", (SIZE // 2, SIZE // 2))
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in outline.tolist()], fill=1)
    return np.asarray(mask)


def write_slide(path: Path, picture: NDArray[np.uint8], mpp: float | None = _MPP, num_levels: int = 3) -> None:
    """A picture (h, w, 3) as a tiled pyramidal TIFF, each level half the one before.

    Args:
        mpp: µm a pixel of the picture, written as its resolution; None for a slide that does not tell.
    """
    try:
        from tifffile import TiffWriter
    except ModuleNotFoundError as err:
        raise DatasetError(
            "writing slides needs tifffile, which is not installed", to_do="pip install 'polyclinic[pathology]'"
        ) from err
    resolution: dict[str, Any] = {} if mpp is None else {"resolutionunit": "CENTIMETER"}
    with TiffWriter(path) as tiff:
        for level in range(num_levels):
            size = (slice(None, None, 2**level),) * 2
            if mpp is not None:
                resolution["resolution"] = (1e4 / mpp / 2**level,) * 2
            tiff.write(
                picture[size],
                tile=(256, 256),
                photometric="rgb",
                compression="adobe_deflate",
                subfiletype=int(level > 0),  # a smaller copy of the first
                metadata=None,
                software=False,
                **resolution,
            )


def _write_annotations(path: Path, outline: NDArray[np.float64]) -> None:
    root = ET.Element("ASAP_Annotations")
    attributes = {"Name": "Annotation 0", "Type": "Polygon", "PartOfGroup": "_0", "Color": "#F4FA58"}
    annotation = ET.SubElement(ET.SubElement(root, "Annotations"), "Annotation", attributes)
    coordinates = ET.SubElement(annotation, "Coordinates")
    for number, (x, y) in enumerate(outline):
        ET.SubElement(coordinates, "Coordinate", {"Order": str(number), "X": str(x), "Y": str(y)})
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
