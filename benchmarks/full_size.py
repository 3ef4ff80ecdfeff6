"""Made-up CT scans as large as real ones: the small ones that `mock` writes, laid side by side or drawn larger."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pydicom

from polyclinic.datasets import fed_kits19, fed_lidc_idri
from polyclinic.datasets.fed_kits19.cases import IMAGE, LABEL, find_cases
from polyclinic.datasets.fed_lidc_idri.raw import find_scans


def lidc(to: Path, *, patients_per_center: int = 2, tiles: int = 10, slices: int = 132) -> Path:
    """CT series for training, by default of 480 x 480 pixels of 0.7 mm and 132 slices, that is 336 x 336 x 330 mm.

    The readers' nodules are in the first tile and the first slices alone, so that they fill as little as real ones.
    """
    fed_lidc_idri.mock(to, patients_per_center=patients_per_center, seed=0)
    for scan in find_scans(to):
        if scan.split == "test":
            shutil.rmtree(scan.files[0].parent)
            continue
        headers = sorted((pydicom.dcmread(path) for path in scan.files), key=lambda header: int(header.InstanceNumber))
        first, distance = headers[0].ImagePositionPatient[2], float(headers[0].SliceThickness)
        for k in range(slices):
            header = headers[k % len(headers)]
            if k < len(headers):
                pixels = np.tile(header.pixel_array, (tiles, tiles))
                header.PixelData = pixels.tobytes()
                header.Rows, header.Columns = pixels.shape
                header.PixelSpacing = [0.7, 0.7]
            else:
                header.SOPInstanceUID = f"2.25.{k}"
            header.InstanceNumber = k + 1
            header.ImagePositionPatient[2] = first + distance * k
            header.save_as(scan.files[0].with_name(f"{k:03d}.dcm"), enforce_file_format=True)
        for path in scan.files:
            path.unlink()
    return to


def kits(to: Path, *, cases: int = 6, shape: tuple[int, int, int] = (130, 512, 512)) -> Path:
    """Cases for training, at most 6, by default as the median of KiTS19: 512 x 512 pixels of 0.78 mm, 2.5 mm apart."""
    fed_kits19.mock(to, patients_per_center=2, seed=0)
    training = [case for case in find_cases(to) if case.split == "train"][:cases]
    for case in find_cases(to):
        if case not in training:
            shutil.rmtree(case.folder)
    for case in training:
        for name, dtype in ((IMAGE, np.int16), (LABEL, np.uint8)):
            small = np.asarray(nibabel.Nifti1Image.from_filename(case.folder / name).dataobj, dtype=dtype)
            nearest = [np.arange(wanted) * size // wanted for wanted, size in zip(shape, small.shape, strict=True)]
            affine = np.zeros((4, 4))
            affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = -2.5, -0.78, -0.78, 1
            large = nibabel.Nifti1Image(small[np.ix_(*nearest)], affine)  # type: ignore[no-untyped-call]
            (case.folder / name).write_bytes(gzip.compress(large.to_bytes(), compresslevel=1))
    return to
