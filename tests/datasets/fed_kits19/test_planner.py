"""The planner against the reference's emulation checks, and the frozen plan against the planner."""

from __future__ import annotations

import numpy as np
import pytest

from polyclinic.datasets.fed_kits19.plan import PLAN
from polyclinic.datasets.fed_kits19.planner import low_resolution_stage, target_spacing


@pytest.mark.parametrize(
    ("spacing", "shape", "stage_spacing", "patch_size"),
    [
        ((0.781, 0.781, 0.781), (528, 512, 512), (1.99, 1.99, 1.99), (128, 128, 128)),
        ((2.5, 0.78, 0.78), (130, 512, 512), (2.82, 1.42, 1.42), (64, 192, 192)),
        ((2.0, 0.78, 0.78), (180, 512, 512), (2.86, 1.43, 1.43), (80, 192, 160)),
        ((3.0, 0.78, 0.78), (107, 512, 512), (3.0, 1.475, 1.475), (64, 192, 160)),
        ((1.25, 0.78, 0.78), (280, 512, 512), (2.46, 1.53, 1.53), (96, 160, 160)),
    ],
)
def test_the_rule_gives_the_known_stages(spacing, shape, stage_spacing, patch_size):
    stage = low_resolution_stage(spacing, shape)
    np.testing.assert_allclose(stage.spacing, stage_spacing, atol=0.006)
    assert stage.patch_size == patch_size


def test_the_shape_of_the_isotropic_stage_is_the_published_one():
    assert low_resolution_stage((0.781,) * 3, (528, 512, 512)).shape == (207, 201, 201)


def test_the_frozen_plan_is_what_the_rule_gives():
    stage = low_resolution_stage((2.5, 0.78, 0.78), (130, 512, 512))
    assert tuple(round(step, 2) for step in stage.spacing) == PLAN.spacing
    assert stage.patch_size == PLAN.patch_size == (64, 192, 192)
    assert stage.pool_strides == PLAN.pool_strides == ((2, 2, 2),) * 4 + ((1, 2, 2),)


def test_a_volume_that_fits_into_a_few_patches_has_no_second_stage():
    stage = low_resolution_stage((2.0, 1.0, 1.0), (64, 128, 128))
    assert stage.spacing == (2.0, 1.0, 1.0)


def test_the_target_spacing_is_the_median_and_finer_along_a_coarse_axis():
    assert target_spacing([(1, 0.8, 0.8), (2, 0.7, 0.9), (2, 0.9, 0.9)], [(200, 512, 512)] * 3) == (2.0, 0.8, 0.9)
    # Coarse and short: the 10th percentile of 1, 5, 5, 5, 5.
    coarse = [(1, 0.8, 0.8)] + [(5, 0.8, 0.8)] * 4
    assert target_spacing(coarse, [(100, 512, 512)] * 5) == pytest.approx((2.6, 0.8, 0.8))
    # Coarse, but not short.
    assert target_spacing(coarse, [(200, 512, 512)] * 5) == pytest.approx((5, 0.8, 0.8))
    # Never finer than in the slices.
    assert target_spacing([(0.5, 0.8, 0.8)] * 2 + [(5, 0.8, 0.8)] * 5, [(50, 512, 512)] * 7)[0] == pytest.approx(
        0.80001
    )
