from __future__ import annotations

import numpy as np
import pytest

from polyclinic.datasets.fed_lidc_idri.resampling import mask_to_one_mm, to_one_mm, to_one_mm_as_flamby


def test_one_mm_equals_scikit_image_away_from_the_border():
    rng = np.random.default_rng(0)
    volume = rng.normal(-500, 300, (21, 18, 9)).astype(np.float32)
    for spacing in ((0.7, 0.7, 2.5), (0.9, 0.9, 0.6), (1.0, 1.0, 1.0)):
        ours, theirs = to_one_mm(volume, spacing), to_one_mm_as_flamby(volume, spacing)
        assert ours.shape == theirs.shape == tuple(round(n * mm) for n, mm in zip(volume.shape, spacing, strict=True))
        inner = (slice(2, -2),) * 3
        np.testing.assert_allclose(ours[inner], theirs[inner], atol=0.05)
    # Beyond the middle of the last voxel theirs is mixed with 0 HU.
    lung = np.full((7, 7, 7), -1000, dtype=np.float32)
    lung[3, 3, 3] = 0
    assert to_one_mm(lung, (2.0, 2.0, 2.0))[0, 0, 0] == -1000
    assert to_one_mm_as_flamby(lung, (2.0, 2.0, 2.0))[0, 0, 0] > -600


def test_a_size_that_is_half_a_voxel_is_rounded_in_the_same_way():
    volume = np.zeros((5, 3, 2), dtype=np.float32)
    assert to_one_mm(volume, (0.5, 0.5, 0.75)).shape == to_one_mm_as_flamby(volume, (0.5, 0.5, 0.75)).shape == (2, 2, 2)


@pytest.mark.parametrize("spacing", [(0.7, 0.8, 2.5), (1.0, 1.0, 1.25), (0.9, 0.6, 0.6), (1.3, 1.7, 3.0)])
@pytest.mark.parametrize("box", [((3, 9), (4, 11), (2, 4)), ((0, 5), (0, 18), (8, 9)), ((20, 21), (17, 18), (0, 9))])
def test_a_mask_equals_the_volume_cut_at_one_half(spacing, box):
    mask = np.zeros((21, 18, 9), dtype=bool)
    mask[tuple(slice(*ends) for ends in box)] = np.random.default_rng(0).random([e - b for b, e in box]) < 0.7
    resized = to_one_mm(mask.astype(np.float32), spacing)
    expected = resized > 0.5 + 1e-4
    place, inside = mask_to_one_mm(mask, resized.shape)
    found = np.zeros_like(expected)
    found[place] = inside
    assert expected.any()
    np.testing.assert_array_equal(found, expected)


def test_what_lies_right_between_two_slices_is_outside_whatever_the_rounding():
    mask = np.zeros((3, 3, 20), dtype=bool)
    for k in range(2, 18):
        mask[:] = False
        mask[:, :, k] = True
        place, inside = mask_to_one_mm(mask, (3, 3, 50))
        # A slice of 2.5 mm: two voxels of 1 mm and a half one on one side.
        assert inside.any((0, 1)).sum() == 2
        assert abs(np.flatnonzero(inside.any((0, 1))).mean() + place[2].start - (2.5 * k + 0.75)) <= 0.5
