"""Made-up data in the publisher's form: a lesion on skin, whose colour tells its class."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from polyclinic.datasets.fed_isic2019.images import Pixels
from polyclinic.datasets.fed_isic2019.published import CENTERS, CLASSES, published
from polyclinic.errors import ConfigError

_HAM_WORDS = {"MEL": "mel", "NV": "nv", "BCC": "bcc", "AK": "akiec", "SCC": "akiec", "BKL": "bkl"} | {
    "DF": "df",
    "VASC": "vasc",
}
_FEWEST = 351 + 88  # images of the smallest center


def mock(to: str | Path, patients_per_center: int = 10, seed: int = 0, *, size: tuple[int, int] = (600, 450)) -> Path:
    """Writes made-up images and the three tables. One image is one patient.

    The names are published ones, so that a fifth of each center, at least one, are test images. The diagnoses are
    drawn, not those of the real images; ages and sexes are left empty.

    Args:
        patients_per_center: from 2 to 439.
        seed: the same seed writes the same pixels.
        size: width and height of the images.
    """
    if not 2 <= patients_per_center <= _FEWEST:
        raise ConfigError(
            f"cannot make {patients_per_center} patients per center",
            to_do=f"ask for 2 to {_FEWEST}, as many as {CENTERS[5]} has",
        )
    num_test = max(1, round(0.2 * patients_per_center))
    rng = np.random.default_rng(seed)
    folder = Path(to) / "ISIC_2019_Training_Input"
    folder.mkdir(parents=True, exist_ok=True)
    classes: dict[str, str] = {}
    for center in range(len(CENTERS)):
        for split, wanted in (("train", patients_per_center - num_test), ("test", num_test)):
            names = [name for name, entry in published().items() if (entry.center, entry.split) == (center, split)]
            for name in names[:wanted]:
                classes[name] = CLASSES[rng.integers(len(CLASSES))]
                (folder / f"{name}.jpg").write_bytes(_jpeg(_lesion(classes[name], size, rng)))
    _write_tables(Path(to), classes)
    return Path(to)


def _lesion(diagnosis: str, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """(height, width, 3): an ellipse with soft edges, its hue by class, under light of a random tint."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width] / min(size)
    middle = np.array([height, width]) / min(size) / 2 + rng.normal(0, 0.05, 2)
    radii = rng.uniform(0.15, 0.3, 2)
    distance = np.hypot((y - middle[0]) / radii[0], (x - middle[1]) / radii[1])
    inside = 1 / (1 + np.exp(12 * (distance - 1)))[..., None]
    angle = 2 * np.pi * CLASSES.index(diagnosis) / len(CLASSES)
    colour = 90 + 60 * np.cos(angle + np.array([0, 2, 4]) * np.pi / 3)
    skin = np.array([215.0, 165.0, 145.0])
    image = (skin * (1 - inside) + colour * inside) * rng.uniform(0.85, 1.1, 3)
    noise = rng.normal(0, 6, (height, width, 1))
    pixels: Pixels = np.clip(image + noise, 0, 255).astype(np.uint8)
    return pixels


def _jpeg(pixels: Pixels) -> bytes:
    try:
        from PIL import Image
    except ModuleNotFoundError as err:
        raise ConfigError(
            "writing JPEG files needs Pillow, which is not installed", to_do="pip install 'polyclinic[imaging]'"
        ) from err
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=90)
    return out.getvalue()


def _write_tables(folder: Path, classes: Mapping[str, str]) -> None:
    truth, metadata, ham = [], [], []
    for number, (name, diagnosis) in enumerate(sorted(classes.items())):
        center = CENTERS[published()[name].center]
        prefix = {"BCN": "BCN_", "MSK": "MSK4"}.get(center, "HAM_")
        lesion = f"{prefix}{number:07d}"
        # The ninth column, UNK, is 0 in all of the training data.
        truth.append([name, *(f"{float(diagnosis == one)}" for one in CLASSES), "0.0"])
        metadata.append([name, "", "", lesion, ""])
        if prefix == "HAM_":
            ham.append([lesion, name, _HAM_WORDS[diagnosis], "", "", "", "", center.removeprefix("HAM_")])
    _write_csv(folder / "ISIC_2019_Training_GroundTruth.csv", ["image", *CLASSES, "UNK"], truth)
    _write_csv(
        folder / "ISIC_2019_Training_Metadata.csv",
        ["image", "age_approx", "anatom_site_general", "lesion_id", "sex"],
        metadata,
    )
    _write_csv(
        folder / "HAM10000_metadata",
        ["lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization", "dataset"],
        ham,
    )


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
