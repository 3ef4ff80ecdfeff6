from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from polyclinic.datasets.fed_kits19.plan import Intensity
from polyclinic.datasets.fed_kits19.resample import (
    new_shape,
    normalise,
    resample_image,
    resample_label,
    separate_axis,
)


def places(old, new):
    """Middles of new voxels, in coordinates of the old ones."""
    axes = [(np.arange(n) + 0.5) * o / n - 0.5 for o, n in zip(old, new, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def cubic(array, new):
    return np.clip(
        ndimage.map_coordinates(array, places(array.shape, new), order=3, mode="nearest"), array.min(), array.max()
    )


@pytest.fixture
def volume():
    return np.random.default_rng(0).normal(50, 100, (9, 16, 14)).astype(np.float32)


def test_the_size_follows_from_the_spacings():
    assert new_shape((100, 512, 512), (5.0, 0.78, 0.78), (2.82, 1.42, 1.42)) == (177, 281, 281)
    assert new_shape((1, 2, 2), (0.5, 0.5, 0.5), (2.82, 1.42, 1.42)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("spacing", "axis"),
    [((5.0, 0.8, 0.8), 0), ((2.0, 0.8, 0.8), None), ((0.8, 0.8, 5.0), 2), ((5.0, 5.0, 0.8), None)],
)
def test_an_axis_is_apart_when_it_alone_is_more_than_three_times_coarser(spacing, axis):
    assert separate_axis(spacing, (2.82, 1.42, 1.42)) == axis


def test_the_targets_spacing_may_set_an_axis_apart_too():
    assert separate_axis((1.0, 0.8, 0.8), (5.0, 1.0, 1.0)) == 0


def test_all_axes_alike_are_cubic(volume):
    # Away from the border, where splines are continued in different ways.
    new = (7, 11, 10)
    inner = (slice(2, -2),) * 3
    np.testing.assert_allclose(resample_image(volume, new)[inner], cubic(volume, new)[inner], atol=2.0)
    smooth = np.cumsum(np.ones((9, 16, 14), dtype=np.float32), axis=1)
    np.testing.assert_allclose(
        resample_image(smooth, (9, 8, 14))[:, 2:-2], cubic(smooth, (9, 8, 14))[:, 2:-2], atol=1e-2
    )


def test_an_axis_apart_takes_the_nearest_slice_and_the_slices_are_cubic(volume):
    new = (16, 10, 9)
    got = resample_image(volume, new, axis=0)
    in_plane = np.stack([resample_image(part[None], (1, 10, 9), axis=0)[0] for part in volume])
    coordinates = places((9, 10, 9), new)
    expected = ndimage.map_coordinates(in_plane, coordinates, order=0, mode="nearest")
    np.testing.assert_array_equal(got, expected)
    inner = (slice(None), slice(2, -2), slice(2, -2))
    slices = np.stack([cubic(part, (10, 9)) for part in volume.astype(np.float64)])
    by_hand = slices[np.floor((np.arange(16) + 0.5) * 9 / 16).astype(int)]
    np.testing.assert_allclose(got[inner], by_hand[inner], atol=3.0)


def test_nothing_leaves_the_range_that_was_there(volume):
    edge = np.where(volume > 50, 3000, -1000).astype(np.float32)
    resized = resample_image(edge, (20, 30, 30))
    assert resized.min() >= -1000
    assert resized.max() <= 3000


def test_labels_are_half_or_more_of_a_label_and_never_between_two():
    label = np.zeros((4, 8, 8), dtype=np.uint8)
    label[:, 2:6, 2:6] = 2
    small = resample_label(label, (4, 4, 4), axis=0)
    expected = np.zeros((4, 4, 4), dtype=np.uint8)
    expected[:, 1:3, 1:3] = 2
    np.testing.assert_array_equal(small, expected)
    assert set(np.unique(resample_label(label, (7, 13, 13)))) == {0, 2}
    # Half of the one and half of the other: the higher label wins.
    halves = np.tile(np.array([1, 2], dtype=np.uint8), (1, 2, 1)).reshape(1, 2, 2)
    assert resample_label(halves, (1, 2, 1)).ravel().tolist() == [2, 2]


def test_a_labels_volume_is_kept():
    places_mm = np.stack(np.meshgrid(np.arange(20) * 5.0, *[np.arange(120) * 0.8] * 2, indexing="ij"))
    label = ((((places_mm - 48) / 35) ** 2).sum(axis=0) < 1).astype(np.uint8)
    shape = new_shape(label.shape, (5.0, 0.8, 0.8), (2.82, 1.42, 1.42))
    small = resample_label(label, shape, axis=0)
    assert small.mean() == pytest.approx(label.mean(), rel=0.02)


def test_the_same_size_changes_nothing(volume):
    np.testing.assert_array_equal(resample_image(volume, volume.shape, 0), volume)


def test_intensities_are_clipped_and_standardised():
    got = normalise(np.array([-1000.0, -79.0, 101.0, 304.0, 2000.0], dtype=np.float32), Intensity(-79, 304, 101, 76.9))
    np.testing.assert_allclose(got, [-180 / 76.9, -180 / 76.9, 0, 203 / 76.9, 203 / 76.9], rtol=1e-6)
    assert got.dtype == np.float32
