"""Made-up cases in KiTS19's format, to try everything without a patient."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.fed_kits19.cases import CENTERS, IMAGE, LABEL, case_name, folds
from polyclinic.errors import ConfigError, DatasetError

_EXTENT = (60.0, 64.0, 64.0)  # mm; a small body, so that everything is quick
_SLICES = (1.0, 2.5, 3.0, 5.0)  # mm between them, as scanners have it
_AIR, _BODY, _KIDNEY, _TUMOUR = -1000.0, 20.0, 150.0, 80.0  # Hounsfield units
_FEWEST, _MOST = 2, 12  # the smallest center has 12 cases


def mock(to: str | Path, patients_per_center: int = 5, seed: int = 0) -> Path:
    """Writes made-up cases in the published layout: a body with two kidneys, one of them with a tumour.

    The case numbers are those of Fed-KiTS19, the first of each center, so that a fifth of them, at least one, are test
    cases.

    Args:
        patients_per_center: from 2 to 12.
        seed: the same seed writes the same bytes.

    Raises:
        ConfigError: a number of patients that cannot be made.
        DatasetError: nibabel is not installed.
    """
    if not _FEWEST <= patients_per_center <= _MOST:
        raise ConfigError(
            f"cannot make {patients_per_center} patients per center",
            to_do=f"ask for {_FEWEST} to {_MOST}, as many as the smallest center has",
        )
    num_train = int(0.8 * patients_per_center)
    rng = np.random.default_rng(seed)
    for center in range(len(CENTERS)):
        for split, wanted in (("train", num_train), ("test", patients_per_center - num_train)):
            numbers = [number for number, place in folds().items() if place == (center, split)]
            for number in numbers[:wanted]:
                _write_case(Path(to) / "data" / case_name(number), rng)
    return Path(to)


def _write_case(folder: Path, rng: np.random.Generator) -> None:
    spacing = np.array([rng.choice(_SLICES), *[round(rng.uniform(1.1, 1.4), 3)] * 2])
    extent = np.array(_EXTENT) * rng.uniform(0.95, 1.15)
    shape = tuple(int(size) for size in np.round(extent / spacing))
    steps = [(np.arange(size) + 0.5) * step for size, step in zip(shape, spacing, strict=True)]
    places = np.stack(np.meshgrid(*steps, indexing="ij"))
    image, label = _anatomy(places, extent / 2, rng)
    # Axes downwards, to the back and to the left, as in KiTS19; columns of the affine go left, back and up (x, y, z).
    affine = np.zeros((4, 4))
    affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = -spacing[0], -spacing[1], -spacing[2], 1
    folder.mkdir(parents=True, exist_ok=True)
    (folder / IMAGE).write_bytes(_nifti(np.round(image).astype(np.int16), affine))
    (folder / LABEL).write_bytes(_nifti(label, affine))


def _anatomy(
    places: NDArray[np.float64], middle: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Hounsfield units and labels at (3, z, y, x) places in mm, of a body around a middle."""

    def inside(center: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.bool_]:
        away = (places - center[:, None, None, None]) / radii[:, None, None, None]
        result: NDArray[np.bool_] = (away**2).sum(axis=0) < 1
        return result

    image = np.where(inside(middle, np.array([400.0, 26.0, 30.0])), _BODY, _AIR)
    label = np.zeros(image.shape, dtype=np.uint8)
    for side in (-1, 1):
        at = middle + rng.normal(0, 2, 3) + np.array([0.0, 3.0, side * 14.0])
        radii = np.array([17.0, 8.0, 8.0]) * rng.uniform(0.85, 1.15, 3)
        label[inside(at, radii)] = 1
        if side == 1:
            shift = np.array([rng.choice([-1.0, 1.0]) * 0.7 * radii[0], 0.0, 0.0])
            label[inside(at + shift, np.full(3, rng.uniform(6, 9)))] = 2
    image[label == 1], image[label == 2] = _KIDNEY, _TUMOUR
    return image + rng.normal(0, 15, image.shape), label


def _nifti(voxels: NDArray[np.generic], affine: NDArray[np.float64]) -> bytes:
    try:
        import nibabel
    except ModuleNotFoundError as err:
        raise DatasetError(
            "writing NIfTI files needs nibabel, which is not installed", to_do="pip install 'polyclinic[imaging]'"
        ) from err
    content = nibabel.Nifti1Image(voxels, affine).to_bytes()  # type: ignore[no-untyped-call]
    # Without a time in it, so that the same seed writes the same bytes.
    return gzip.compress(content, compresslevel=1, mtime=0)
