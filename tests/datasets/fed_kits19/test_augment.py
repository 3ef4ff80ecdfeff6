from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from polyclinic.datasets.fed_kits19 import augment as module
from polyclinic.datasets.fed_kits19.augment import around_one, augment, elastic_offsets, gamma, rotation, spatial

SHAPE = (12, 20, 20)


@pytest.fixture
def patch():
    rng = np.random.default_rng(0)
    image = ndimage.gaussian_filter(rng.standard_normal(SHAPE), 1.5).astype(np.float32)
    label = np.zeros(SHAPE, dtype=np.float32)
    label[3:9, 4:15, 5:12] = 1
    label[5:8, 6:10, 6:10] = 2
    return image, label


def always(monkeypatch, **chances):
    for name in ("SPATIAL_PROBABILITY", "GAMMA_PROBABILITY", "MIRROR_PROBABILITY"):
        monkeypatch.setattr(module, name, chances.get(name, 0.0))


def test_each_change_comes_as_often_as_planned(patch, monkeypatch):
    counted = {"elastic_offsets": 0, "gamma": 0, "around_one": 0}

    def counting(name, real):
        def count(*args):
            counted[name] += 1
            return real(*args)

        return count

    for name in counted:
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    image, label = (part[:4, :6, :6] for part in patch)
    for seed in range(1500):
        augment(image, label, np.random.default_rng(seed))
    assert counted["elastic_offsets"] / 1500 == pytest.approx(0.2, abs=0.04)
    assert counted["gamma"] / 1500 == pytest.approx(0.3, abs=0.04)
    # Scaling and gamma.
    assert counted["around_one"] / 1500 == pytest.approx(0.5, abs=0.05)


def test_nothing_chosen_changes_nothing(patch, monkeypatch):
    always(monkeypatch)
    for got, expected in zip(augment(*patch, np.random.default_rng(0)), patch, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_mirroring_all_axes_turns_image_and_label_alike(patch, monkeypatch):
    always(monkeypatch, MIRROR_PROBABILITY=1.0)
    for got, expected in zip(augment(*patch, np.random.default_rng(0)), patch, strict=True):
        np.testing.assert_array_equal(got, expected[::-1, ::-1, ::-1])


def test_turning_and_scaling_are_those_of_sampled_coordinates(patch, monkeypatch):
    image, label = patch
    always(monkeypatch, SPATIAL_PROBABILITY=1.0)
    monkeypatch.setattr(module, "ALPHAS", (0.0, 0.0))
    monkeypatch.setattr(module, "rotation", lambda axis, angle: rotation(axis, (0.1, -0.2, 0.15)[axis]))
    monkeypatch.setattr(module, "around_one", lambda limits, rng: 1.1)
    middle = (np.array(SHAPE) - 1) / 2
    coordinates = np.indices(SHAPE).reshape(3, -1).T - middle
    turned = coordinates @ rotation(0, 0.1) @ rotation(1, -0.2) @ rotation(2, 0.15) * 1.1 + middle
    expected = ndimage.map_coordinates(image, turned.T.reshape(3, *SHAPE), order=3, mode="constant")
    for offsets in (True, False):
        if not offsets:
            monkeypatch.setattr(module, "elastic_offsets", lambda *args: None)
        moved, moved_label = spatial(image, label, np.random.default_rng(0))
        np.testing.assert_allclose(moved, expected, atol=1e-4)
        one = ndimage.map_coordinates((label == 2).astype(float), turned.T.reshape(3, *SHAPE), order=1)
        assert ((one >= 0.5) != (moved_label == 2)).sum() <= 1
    # A shape that is sampled further out becomes smaller.
    assert (moved_label > 0).sum() < (label > 0).sum()


def test_labels_stay_labels_and_move_with_the_image(monkeypatch):
    always(monkeypatch, SPATIAL_PROBABILITY=1.0)
    label = np.zeros((24, 40, 40), dtype=np.float32)
    label[6:18, 10:30, 10:30] = 1
    label[10:14, 16:24, 16:24] = 2
    image = np.where(label > 0, 1.0, -1.0).astype(np.float32)
    for seed in range(3):
        moved, moved_label = augment(image, label, np.random.default_rng(seed))
        assert set(np.unique(moved_label)) <= {0.0, 1.0, 2.0}
        assert (moved_label != label).any()
        inside, outside = moved[moved_label > 0], moved[(moved_label == 0) & (moved < -0.1)]
        assert (inside > 0).mean() > 0.95
        assert len(outside)


def test_elastic_shifts_are_smoothed_noise_times_alpha():
    shifts = elastic_offsets((16, 32, 32), 100.0, 3.0, np.random.default_rng(0))
    noise = np.random.default_rng(0).uniform(-1, 1, (3, 16, 32, 32))
    expected = np.stack([ndimage.gaussian_filter(part, 3.0, mode="constant") for part in noise]) * 100
    np.testing.assert_allclose(shifts, expected, atol=1e-3)


def test_gamma_bends_the_range_and_keeps_mean_and_sd(patch):
    image, _ = patch
    for exponent in (0.7, 1.5):
        bent = gamma(image, exponent)
        assert bent.mean() == pytest.approx(image.mean(), abs=1e-5)
        assert bent.std() == pytest.approx(image.std(), rel=1e-4)
        order = np.argsort(image.ravel())
        assert (np.diff(bent.ravel()[order]) >= -1e-6).all()
    np.testing.assert_allclose(gamma(image, 1.0), image, atol=1e-5)
    assert np.isfinite(gamma(np.full(SHAPE, 3.0, dtype=np.float32), 1.4)).all()


def test_factors_lie_below_and_above_one_equally_often():
    values = np.array([around_one((0.85, 1.25), np.random.default_rng(seed)) for seed in range(2000)])
    assert values.min() >= 0.85
    assert values.max() <= 1.25
    assert (values < 1).mean() == pytest.approx(0.5, abs=0.04)
    assert values[values > 1].mean() == pytest.approx(1.125, abs=0.01)


@pytest.mark.parametrize("axis", range(3))
def test_a_rotation_leaves_its_axis_and_turns_the_others(axis):
    turn = rotation(axis, math.radians(90))
    np.testing.assert_allclose(turn @ np.eye(3)[axis], np.eye(3)[axis], atol=1e-12)
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(turn @ np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3], atol=1e-12)
    assert np.linalg.det(turn) == pytest.approx(1)
