from __future__ import annotations

import nibabel
import numpy as np
import pytest

from polyclinic.datasets.fed_kits19.cases import Case
from polyclinic.datasets.fed_kits19.volume import read_case
from polyclinic.errors import DatasetError

IMAGE = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
LABEL = (np.arange(24).reshape(2, 3, 4) % 3).astype(np.uint8)


def case(folder):
    return Case(3, folder)


def test_a_file_that_lies_as_kits19s_is_read_as_it_is(write_case, tmp_path):
    image, label, spacing = read_case(case(write_case(tmp_path, IMAGE, LABEL, (5.0, 0.7, 0.8))))
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(label, LABEL)
    assert (image.dtype, label.dtype) == (np.float32, np.uint8)
    assert spacing == pytest.approx((5.0, 0.7, 0.8))


def test_other_orders_and_directions_of_axes_are_turned(write_case, tmp_path):
    folder = write_case(tmp_path, IMAGE, LABEL, (5.0, 0.7, 0.8))
    for name in ("imaging", "segmentation"):
        path = folder / f"{name}.nii.gz"
        turned = nibabel.as_closest_canonical(nibabel.load(path))
        assert turned.shape == (4, 3, 2)
        nibabel.save(nibabel.Nifti1Image(np.asarray(turned.dataobj), turned.affine), path)
    image, label, spacing = read_case(case(folder))
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(label, LABEL)
    assert spacing == pytest.approx((5.0, 0.7, 0.8))


def test_either_kind_of_affine_will_do_but_none_is_refused(write_case, tmp_path):
    for codes in ((2, 0), (0, 1)):
        read_case(case(write_case(tmp_path / str(codes), IMAGE, LABEL, codes=codes)))
    with pytest.raises(DatasetError, match=r"imaging\.nii\.gz has no affine"):
        read_case(case(write_case(tmp_path / "none", IMAGE, LABEL, codes=(0, 0))))


@pytest.mark.parametrize(
    ("image", "label", "what"),
    [
        (None, LABEL, r"no imaging\.nii\.gz; a clone of kits19 brings the labels alone"),
        (IMAGE, None, r"no segmentation\.nii\.gz"),
        (IMAGE, LABEL[:1], r"differ in shape: \(2, 3, 4\) and \(1, 3, 4\)"),
        (IMAGE, LABEL + 1, "values other than 0, 1, 2"),
        (IMAGE, LABEL * 0.5, "values other than 0, 1, 2"),
        (np.full((2, 3, 4), np.nan, dtype=np.float32), LABEL, "not finite"),
        (IMAGE[..., None], LABEL, r"imaging\.nii\.gz has 4 axes, expected 3"),
    ],
)
def test_files_that_do_not_fit_are_refused(write_case, tmp_path, image, label, what):
    with pytest.raises(DatasetError, match=what):
        read_case(case(write_case(tmp_path, image, label)))


def test_a_truncated_or_foreign_file_is_refused(write_case, tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(-1000, 1000, (8, 20, 20)).astype(np.int16)
    folder = write_case(tmp_path, noise, np.zeros((8, 20, 20), dtype=np.uint8))
    whole = (folder / "imaging.nii.gz").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no gzip at all" * 100):
        (folder / "imaging.nii.gz").write_bytes(content)
        with pytest.raises(DatasetError, match=r"imaging\.nii\.gz is not a readable NIfTI file"):
            read_case(case(folder))
