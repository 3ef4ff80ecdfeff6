from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.datasets.fed_kits19.patches import corner_around, cut, margin, random_corner

PATCH = (64, 192, 192)


def test_the_margin_is_the_references():
    assert margin(PATCH, (115, 282, 282)).tolist() == [67, 84, 45]
    # A volume of 10 slices and 67 of margin may just hold the patch; one of 150 pixels and 45 too.
    assert margin(PATCH, (10, 100, 150)).tolist() == [67, 92, 45]


def test_corners_reach_from_one_end_to_the_other():
    rng = np.random.default_rng(0)
    shape = (115, 282, 282)
    corners = np.array([random_corner(shape, PATCH, rng) for _ in range(4000)])
    # floor(-need / 2), and shape + need // 2 + need % 2 - patch.
    assert corners.min(axis=0).tolist() == [-34, -42, -23]
    assert corners.max(axis=0).tolist() == [115 + 33 + 1 - 64, 282 + 42 - 192, 282 + 22 + 1 - 192]
    np.testing.assert_allclose(corners.mean(axis=0), [25.5, 45, 45], atol=3)


def test_a_patch_around_a_voxel_holds_it_in_its_middle():
    assert corner_around((60, 150, 150), (115, 282, 282), PATCH) == (28, 54, 54)
    # Near the border not further out than the margin.
    assert corner_around((0, 0, 281), (115, 282, 282), PATCH) == (-32, -42, 185)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 12)] * 3),
    patch=st.tuples(*[st.integers(1, 12)] * 3),
    corner=st.tuples(*[st.integers(-15, 15)] * 3),
)
def test_a_cut_is_what_padding_with_zeros_gives(shape, patch, corner):
    volume = np.arange(1, np.prod(shape) + 1, dtype=np.float16).reshape(shape)
    padded = np.pad(volume, 30)
    expected = padded[tuple(slice(30 + c, 30 + c + p) for c, p in zip(corner, patch, strict=True))]
    np.testing.assert_array_equal(cut(volume, corner, patch), expected)


def test_every_half_precision_number_stays_what_it_is():
    volume = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(16, 64, 64)
    patch = cut(volume, (0, 0, 0), volume.shape)
    assert patch.dtype == np.float32
    np.testing.assert_array_equal(patch.ravel().tolist(), [float(value) for value in volume.ravel()])


def test_only_the_patch_is_read(tmp_path):
    read = []

    class Watched:
        shape = (100, 100, 100)

        def __getitem__(self, where):
            read.append(where)
            return np.ones(tuple(part.stop - part.start for part in where))

    patch = cut(Watched(), (90, -5, 20), (16, 16, 16))
    assert read == [(slice(90, 100), slice(0, 11), slice(20, 36))]
    assert patch.sum() == pytest.approx(10 * 11 * 16)
