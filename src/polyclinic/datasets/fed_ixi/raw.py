"""Raw IXI files: reading a volume, and writing made-up ones in the same format."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.fed_ixi.subjects import CENTERS, published_folds
from polyclinic.errors import ConfigError, DatasetError

RAW_SHAPE = (83, 44, 55)


def read_volume(content: bytes, name: str) -> NDArray[np.float64]:
    """The voxels of a NIfTI file, (x, y, z) as they lie in it, scaled as it says.

    Args:
        content: the file, compressed if its name ends with .gz.

    Raises:
        DatasetError: nibabel is not installed, or this is no NIfTI file of three axes.
    """
    try:
        # Here and not above: whoever trains on prepared data does not need it.
        import nibabel
        from nibabel.filebasedimages import ImageFileError
        from nibabel.spatialimages import HeaderDataError
        from nibabel.wrapstruct import WrapStructError
    except ModuleNotFoundError as err:
        raise DatasetError(
            "reading NIfTI files needs nibabel, which is not installed", to_do="pip install 'polyclinic[imaging]'"
        ) from err
    try:
        file = nibabel.Nifti1Image.from_bytes(gzip.decompress(content) if name.endswith(".gz") else content)
        volume: NDArray[np.float64] = np.asarray(file.get_fdata(caching="unchanged"), dtype=np.float64)
    # Nibabel has a family of errors without a common root for headers that make no sense.
    except (OSError, EOFError, ValueError, zlib.error, HeaderDataError, WrapStructError, ImageFileError) as err:
        raise DatasetError(f"{name} is not a readable NIfTI file: {err}") from err
    if volume.ndim != 3:
        raise DatasetError(f"{name} has {volume.ndim} axes, expected 3")
    return volume


def mock(to: str | Path, patients_per_center: int = 10, seed: int = 0) -> Path:
    """Writes made-up subjects in the published layout: an ellipsoid "brain" in noise, with its mask.

    The patient numbers are published ones, chosen so that a fifth of each center, at least one, are test subjects.

    Args:
        patients_per_center: from 2 to 74.
        seed: the same seed writes the same bytes.
    """
    if not 2 <= patients_per_center <= 74:
        raise ConfigError(
            f"cannot make {patients_per_center} patients per center", to_do="ask for 2 to 74, as many as IOP has"
        )
    num_test = max(1, round(0.2 * patients_per_center))
    rng = np.random.default_rng(seed)
    for hospital in CENTERS:
        for fold, wanted in (("train", patients_per_center - num_test), ("test", num_test)):
            folds = published_folds()
            numbers = [number for at, number in sorted(folds) if at == hospital and folds[at, number] == fold]
            for number in numbers[:wanted]:
                _write_subject(Path(to) / "IXI_sample", f"IXI{number:03d}-{hospital}-{9000 + number}", rng)
    return Path(to)


def _write_subject(folder: Path, subject: str, rng: np.random.Generator) -> None:
    import nibabel
    from scipy.ndimage import gaussian_filter

    axes = np.meshgrid(*(np.arange(size) for size in RAW_SHAPE), indexing="ij")
    middle = np.array(RAW_SHAPE) / 2 + rng.normal(0, 1.5, 3)
    radii = np.array(RAW_SHAPE) * rng.uniform(0.28, 0.36, 3)
    distance = np.sqrt(sum(((axes[k] - middle[k]) / radii[k]) ** 2 for k in range(3)))
    brain = distance < 1
    head = 600.0 * brain + 300.0 * ((distance > 1.15) & (distance < 1.3))
    image = gaussian_filter(head, 1.0) + rng.normal(0, 30, RAW_SHAPE)
    affine = np.diag([2.2, 4.1, 3.3, 1.0])
    for kind, ending, voxels in (
        ("T1", "image", np.clip(image, 0, None).astype(np.int16)),
        ("label", "label", brain.astype(np.uint8)),
    ):
        (folder / subject / kind).mkdir(parents=True, exist_ok=True)
        content = nibabel.Nifti1Image(voxels, affine).to_bytes()  # type: ignore[no-untyped-call]
        # Without a time in it, so that the same seed writes the same bytes.
        packed = gzip.compress(content, compresslevel=1, mtime=0)
        (folder / subject / kind / f"{subject}_{ending}.nii.gz").write_bytes(packed)
