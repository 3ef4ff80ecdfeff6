from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from polyclinic.datasets.fed_kits19 import mock, prepare


@pytest.fixture(scope="session")
def raw(tmp_path_factory) -> Path:
    """Made-up raw data, 2 cases a center; not to be changed."""
    return mock(tmp_path_factory.mktemp("kits") / "raw", patients_per_center=2)


@pytest.fixture(scope="session")
def prepared(raw, tmp_path_factory) -> Path:
    return prepare(raw, tmp_path_factory.mktemp("kits") / "prepared", show_progress=False)


@pytest.fixture
def write_case():
    """Writes a case folder from arrays (z, y, x), as KiTS19's files lie: downwards, to the back, to the left."""

    def write(folder: Path, image=None, label=None, spacing=(3.0, 1.5, 1.5), codes=(1, 1)) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        affine = np.zeros((4, 4))
        affine[2, 0], affine[1, 1], affine[0, 2], affine[3, 3] = -spacing[0], -spacing[1], -spacing[2], 1
        for name, voxels in (("imaging", image), ("segmentation", label)):
            if voxels is not None:
                file = nibabel.Nifti1Image(voxels, affine)
                file.set_sform(affine, codes[0])
                file.set_qform(affine, codes[1])
                nibabel.save(file, folder / f"{name}.nii.gz")
        return folder

    return write
