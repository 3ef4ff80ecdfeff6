from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from polyclinic.datasets.fed_lidc_idri.sampling import PATCHES_A_SCAN, Sampler, place_in_box
from polyclinic.errors import ConfigError

NONE = torch.empty(0, 3, dtype=torch.int64)


def centers_of(sampler, nodules, draws=1500):
    """(draws, patches, 3) centers of patches."""
    torch.manual_seed(0)
    return torch.tensor([sampler.corners(nodules) for _ in range(draws)]) + sampler.patch_size // 2


def test_the_grid_of_a_test_scan_is_in_c_order_and_covers_the_box():
    corners = Sampler("all").corners(NONE)
    assert len(corners) == PATCHES_A_SCAN == 27
    assert corners[:4] == [(0, 0, 0), (0, 0, 128), (0, 0, 256), (0, 128, 0)]
    assert corners == sorted(set(corners))
    assert Sampler("none").corners(NONE) == [(0, 0, 0)]
    assert Sampler("none").sizes == (384, 384, 384)


def test_the_random_patch_comes_first_and_is_normal_around_the_middle():
    centers = centers_of(Sampler(), torch.tensor([[60, 200, 330]]))[:, 0].float()
    assert centers.mean(0).tolist() == pytest.approx([192, 192, 192], abs=3)
    assert centers.std(0).tolist() == pytest.approx([32, 32, 32], abs=2)


def test_the_lesion_patch_holds_a_voxel_of_a_nodule_moved_by_a_quarter_of_a_patch():
    centers = centers_of(Sampler(), torch.tensor([[200, 210, 220]]))[:, 1] - torch.tensor([200, 210, 220])
    # ((U * 128) mod 64) - 32: all whole numbers from -32 to 31, each as often.
    assert (int(centers.min()), int(centers.max())) == (-32, 31)
    assert centers.float().mean().item() == pytest.approx(-0.5, abs=0.9)
    assert len(centers.unique()) == 64


def test_each_voxel_of_a_nodule_is_drawn_as_often():
    voxels = torch.tensor([[100, 200, 200], [300, 200, 200], [300, 201, 200]])
    near_the_first = centers_of(Sampler(), voxels)[:, 1, 0] < 200
    assert near_the_first.float().mean().item() == pytest.approx(1 / 3, abs=0.04)


def test_borders_are_seen_by_default_but_not_in_flamby():
    at_the_border = torch.tensor([[2, 200, 381]])
    ours = centers_of(Sampler(), at_the_border)[:, 1]
    assert set(ours[:, 0].tolist()) == {64}  # the patch begins at voxel 0
    assert set(ours[:, 2].tolist()) == {320}  # and ends at voxel 383
    theirs = centers_of(Sampler(flamby_compatible=True), at_the_border)
    assert set(theirs[:, 1, 0].tolist()) == {128}
    assert set(theirs[:, 1, 2].tolist()) == {320}
    assert int(theirs.min()) >= 128


def test_without_nodules_all_patches_are_random():
    centers = centers_of(Sampler(), NONE)
    assert centers.shape == (1500, 2, 3)
    assert centers.float().std((0, 1)).tolist() == pytest.approx([32, 32, 32], abs=2)
    assert centers_of(Sampler("random", n_patches=5), torch.tensor([[9, 9, 9]]), 2).shape == (2, 5, 3)


@pytest.mark.parametrize(("n_patches", "ratio", "lesions"), [(2, 0.8, 1), (2, 1.0, 2), (5, 0.8, 4), (3, 0.0, 0)])
def test_the_number_of_lesion_patches_is_rounded_down(n_patches, ratio, lesions):
    centers = centers_of(Sampler(n_patches=n_patches, ratio=ratio), torch.tensor([[64, 64, 64]]), 50)
    # Random patches come that near to the corner once in thousands of draws.
    near = (centers <= 96).all(dim=2).float().mean(0)
    assert near.tolist() == [0.0] * (n_patches - lesions) + [1.0] * lesions


def test_draws_come_from_torchs_global_generator():
    sampler, nodules = Sampler(), torch.tensor([[60, 200, 330], [90, 90, 90]])
    torch.manual_seed(3)
    first = [sampler.corners(nodules) for _ in range(5)]
    torch.manual_seed(3)
    assert [sampler.corners(nodules) for _ in range(5)] == first
    assert len({tuple(map(tuple, corners)) for corners in first}) == 5


@given(st.integers(1, 500), st.integers(1, 500))
def test_a_scan_lies_in_the_middle_of_the_box(size, box):
    (before, _, _) = place_in_box((size,) * 3, (box,) * 3)
    after = box - size - before
    # The larger half of what is missing goes before, the smaller half of what is too much is cut off before.
    assert before - after in (0, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "fats"}, "there is no sampler 'fats'"),
        ({"out_shape": (384, 384)}, "out_shape must be three sizes"),
        ({"patch_size": 30}, "multiple of 4"),
        ({"n_patches": 0}, "n_patches must be at least 1"),
        ({"ratio": 1.5}, r"ratio in \[0, 1\]"),
        ({"kind": "all", "out_shape": (384, 384, 400)}, "is no grid of patches of 128"),
        ({"out_shape": (100, 384, 384)}, "patches of 128 do not fit"),
        ({"out_shape": (160, 160, 160), "flamby_compatible": True}, "patches of 128 do not fit"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Sampler(**settings)
