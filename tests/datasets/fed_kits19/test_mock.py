from __future__ import annotations

import nibabel
import numpy as np
import pytest

from polyclinic.datasets.fed_kits19 import mock
from polyclinic.datasets.fed_kits19.cases import find_cases
from polyclinic.errors import ConfigError


def test_made_up_cases_have_the_published_format(raw):
    cases = find_cases(raw)
    spacings = set()
    for case in cases:
        assert case.folder == raw / "data" / case.name
        image, label = nibabel.load(case.image), nibabel.load(case.label)
        assert image.shape == label.shape
        assert nibabel.aff2axcodes(image.affine) == ("I", "P", "L")
        assert (image.get_data_dtype(), label.get_data_dtype()) == (np.int16, np.uint8)
        values, labels = image.get_fdata(), label.get_fdata()
        assert set(np.unique(labels)) == {0.0, 1.0, 2.0}
        assert values[labels == 1].mean() == pytest.approx(150, abs=10)
        assert values[labels == 2].mean() == pytest.approx(80, abs=10)
        assert values.min() < -900
        spacings.add(float(image.header.get_zooms()[0]))
    assert len(spacings) > 1


def test_the_folds_are_the_published_rule_at_any_size(tmp_path):
    for size, counts in ((5, (4, 1)), (12, (9, 3))):
        splits = [case.split for case in find_cases(mock(tmp_path / str(size), size)) if case.center == 3]
        assert (splits.count("train"), splits.count("test")) == counts


def test_the_same_seed_makes_the_same_bytes(tmp_path):
    folders = [mock(tmp_path / str(k), 2, seed) for k, seed in enumerate((1, 1, 2))]
    one, same, other = ([path.read_bytes() for path in sorted(f.rglob("*.nii.gz"))] for f in folders)
    assert one == same != other


@pytest.mark.parametrize("wanted", [1, 13])
def test_a_number_of_patients_that_cannot_be_made_is_refused(tmp_path, wanted):
    with pytest.raises(ConfigError, match=f"cannot make {wanted} patients"):
        mock(tmp_path, wanted)
