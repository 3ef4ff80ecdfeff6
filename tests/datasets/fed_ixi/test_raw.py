from __future__ import annotations

import gzip

import nibabel
import numpy as np
import pytest

from polyclinic.datasets.fed_ixi.raw import mock, read_volume
from polyclinic.datasets.fed_ixi.subjects import open_raw
from polyclinic.errors import ConfigError, DatasetError


def test_made_up_subjects_have_the_published_format(raw):
    subjects = open_raw(raw).subjects
    first = subjects[0]
    assert first.image == f"IXI_sample/{first.id}/T1/{first.id}_image.nii.gz"
    image, label = (nibabel.load(raw / name) for name in (first.image, first.label))
    assert image.shape == label.shape == (83, 44, 55)
    assert set(np.unique(label.get_fdata())) == {0.0, 1.0}
    assert [sum(s.hospital == h for s in subjects) for h in ("Guys", "HH", "IOP")] == [5, 5, 5]


def test_the_same_seed_makes_the_same_bytes(tmp_path):
    folders = [mock(tmp_path / str(k), 2, seed) for k, seed in enumerate((1, 1, 2))]
    one, same, other = ([path.read_bytes() for path in sorted(f.rglob("*.nii.gz"))] for f in folders)
    assert one == same != other


@pytest.mark.parametrize("wanted", [1, 75])
def test_a_number_of_patients_that_cannot_be_made_is_refused(tmp_path, wanted):
    with pytest.raises(ConfigError, match=f"cannot make {wanted} patients"):
        mock(tmp_path, wanted)


def test_a_volume_is_scaled_as_its_header_says():
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(2.0, 5.0)
    volume = read_volume(gzip.compress(image.to_bytes()), "x.nii.gz")
    np.testing.assert_array_equal(volume, np.arange(24).reshape(2, 3, 4) * 2.0 + 5.0)
    np.testing.assert_array_equal(read_volume(image.to_bytes(), "x.nii"), volume)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x1f\x8b", id="cut"),
        pytest.param(b"x" * 1000, id="not packed"),
        pytest.param(gzip.compress(b""), id="nothing packed"),
        pytest.param(gzip.compress(b"x" * 400), id="no header"),
    ],
)
def test_what_is_no_nifti_file_is_said(content):
    with pytest.raises(DatasetError, match=r"T1/a\.nii\.gz is not a (readable )?NIfTI file"):
        read_volume(content, "T1/a.nii.gz")


def test_four_axes_are_refused():
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4, 5), dtype=np.int16), np.eye(4))
    with pytest.raises(DatasetError, match="has 4 axes, expected 3"):
        read_volume(image.to_bytes(), "a.nii")
