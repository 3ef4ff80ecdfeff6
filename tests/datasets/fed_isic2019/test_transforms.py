from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from polyclinic.datasets.fed_isic2019 import Augmentation, CenterCrop, transforms
from polyclinic.datasets.fed_isic2019.transforms import Placement, cut, light, punch, standardise
from polyclinic.errors import ConfigError


@pytest.fixture
def noise():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8))


@pytest.fixture
def smooth():
    """Waves of about 20 pixels, without a symmetry, so that two interpolations are about as good as one."""
    y, x = np.mgrid[0:60, 0:76]
    image = [128 + 60 * np.sin(x / 7 + k) + 50 * np.cos(y / 9 + x / 25 - k) for k in range(3)]
    return torch.from_numpy(np.stack(image, axis=-1).round().astype(np.uint8))


def first(image):
    """(3, height, width) float."""
    return image.permute(2, 0, 1).float()


def test_without_any_change_a_crop_is_a_part_of_the_image(noise):
    got = cut(noise, Placement(top=0.5, left=0.999), 32)
    # 9 and 21 places: half of 9 is 4, and the last of 21 is 20.
    assert (got == first(noise)[:, 4:36, 20:52]).all()
    assert (cut(noise, Placement(), 32) == first(noise)[:, :32, :32]).all()


@pytest.mark.parametrize("turned", [0.0, 1e-5])
@pytest.mark.parametrize(("vertical", "horizontal"), [(True, False), (False, True), (True, True)])
def test_a_flipped_crop_is_a_part_of_the_flipped_image(noise, vertical, horizontal, turned):
    # Without a turn pixels are copied, with the slightest they are interpolated: both must agree.
    place = Placement(degrees=turned, flip_vertical=vertical, flip_horizontal=horizontal, top=0.3, left=0.7)
    axes = [0] * vertical + [1] * horizontal
    expected = first(noise.flip(axes))[:, 2:34, 14:46]
    torch.testing.assert_close(cut(noise, place, 32), expected, atol=0.05, rtol=0)


def test_quarter_turns_are_exact(noise):
    square = noise[:40, :40].contiguous()
    for degrees, quarters in ((90, 1), (-90, -1), (180, 2)):
        expected = first(torch.rot90(square, quarters))
        got = cut(square, Placement(degrees=float(degrees)), 40)
        torch.testing.assert_close(got, expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("degrees", [-50.0, -13.0, 8.0, 45.0])
def test_a_rotation_is_scipys_mirrored_at_the_edges(noise, degrees):
    got = cut(noise, Placement(degrees=degrees, top=0.5, left=0.5), 40 - 4)
    expected = ndimage.rotate(noise.numpy().astype(float), degrees, reshape=False, order=1, mode="mirror")
    np.testing.assert_allclose(got.numpy(), expected[2:38, 8:44].transpose(2, 0, 1), atol=0.05)


@pytest.mark.parametrize("scale", [0.93, 1.04, 1.07])
def test_a_scaled_crop_is_a_part_of_the_resized_image(noise, scale):
    size = (int(40 * scale), int(52 * scale))
    resized = torch.nn.functional.interpolate(first(noise)[None], size=size, mode="bilinear", align_corners=False)[0]
    got = cut(noise, Placement(scale=scale, top=0.4, left=0.6), 32)
    top, left = math.floor(0.4 * (size[0] - 31)), math.floor(0.6 * (size[1] - 31))
    # At the very edge the one repeats the outermost pixel, and the other mirrors behind it.
    inner = (slice(None), slice(1, -1), slice(1, -1))
    expected = resized[:, top : top + 32, left : left + 32]
    torch.testing.assert_close(got[inner], expected[inner], atol=0.05, rtol=0)


def test_all_at_once_is_one_after_the_other(smooth):
    size = (int(60 * 1.06), int(76 * 1.06))
    resized = torch.nn.functional.interpolate(first(smooth)[None], size=size, mode="bilinear", align_corners=False)[0]
    turned = ndimage.rotate(resized.numpy(), 25, axes=(1, 2), reshape=False, order=1, mode="mirror")
    flipped = turned[:, ::-1, :]
    got = cut(smooth, Placement(scale=1.06, degrees=25, flip_vertical=True, top=0.5, left=0.5), 50)
    top, left = (size[0] - 49) // 2, (size[1] - 49) // 2
    difference = np.abs(got.numpy() - flipped[:, top : top + 50, left : left + 50])
    assert difference.max() < 8
    assert difference.mean() < 1


def test_light_is_the_formula_and_stays_in_range():
    pixels = torch.tensor([0.0, 100.0, 250.0])
    torch.testing.assert_close(light(pixels, contrast=0.1, brightness=0.15), torch.tensor([38.25, 148.25, 255.0]))
    torch.testing.assert_close(light(pixels, contrast=-0.1, brightness=-0.15), torch.tensor([0.0, 51.75, 186.75]))


def test_holes_are_squares_of_16_within_the_image():
    pixels = torch.ones(3, 200, 200)
    punch(pixels, [(0.0, 0.9999), (0.5, 0.25)])
    assert (pixels[:, :16, 184:] == 0).all()
    assert (pixels[:, 92:108, 46:62] == 0).all()
    assert (pixels == 0).sum() == 2 * 3 * 16 * 16
    small = torch.ones(3, 32, 32)
    punch(small, [(0.9999, 0.0)])
    assert (small == 0).sum() == 3 * 3 * 3


def test_standardising_is_imagenets():
    pixels = torch.tensor([0.0, 128.0, 255.0]).repeat(3, 1)[:, :, None]
    expected = np.array([0, 128 / 255, 1])[None, :] - np.array([0.485, 0.456, 0.406])[:, None]
    expected /= np.array([0.229, 0.224, 0.225])[:, None]
    np.testing.assert_allclose(standardise(pixels)[..., 0], expected, atol=1e-6)


def test_the_test_image_is_the_middle(noise):
    expected = standardise(first(noise)[:, 4:36, 10:42])
    assert (CenterCrop(32)(noise) == expected).all()


def test_an_image_smaller_than_the_crop_is_refused(noise):
    for transform in (CenterCrop(41), Augmentation(41)):
        with pytest.raises(ConfigError, match="40 x 52 pixels is smaller than the crop of 41"):
            transform(noise)


def test_augmentation_is_seeded_by_torchs_generator_and_draws_the_same_number_for_each_image(noise):
    transform = Augmentation(32)
    torch.manual_seed(3)
    one, two = transform(noise), transform(noise)
    after = torch.rand(())
    assert (one != two).any()
    torch.manual_seed(3)
    assert (transform(noise) == one).all()
    assert (transform(noise.flip(0)) != two).any()
    assert torch.rand(()) == after
    assert (one.shape, one.dtype) == ((3, 32, 32), torch.float32)


@pytest.fixture
def drawn(monkeypatch, noise):
    """What 2,000 augmentations did: placements, light, holes."""
    placements, lights, holes = [], [], []
    monkeypatch.setattr(transforms, "cut", lambda image, place, crop: placements.append(place) or torch.ones(3, 4, 4))
    monkeypatch.setattr(transforms, "light", lambda pixels, **how: lights.append(how) or pixels)
    monkeypatch.setattr(transforms, "punch", lambda pixels, places: holes.append(places))
    torch.manual_seed(0)
    for _ in range(2000):
        Augmentation(32)(noise)
    return placements, lights, holes


def test_each_change_happens_half_of_the_time_and_within_its_limits(drawn):
    placements, lights, holes = drawn
    turns = [p.degrees for p in placements if p.degrees]
    scales = [p.scale for p in placements if p.scale != 1]
    for number in (len(turns), len(scales), len(lights), len(holes)):
        assert number == pytest.approx(1000, abs=120)
    assert (min(turns), max(turns)) == pytest.approx((-50, 50), abs=0.5)
    assert (min(scales), max(scales)) == pytest.approx((0.93, 1.07), abs=0.001)
    assert max(abs(how["contrast"]) for how in lights) == pytest.approx(0.1, abs=0.001)
    assert max(abs(how["brightness"]) for how in lights) == pytest.approx(0.15, abs=0.001)
    flips = [(p.flip_vertical, p.flip_horizontal) for p in placements]
    for kind in ((True, False), (False, True), (True, True)):
        assert flips.count(kind) == pytest.approx(2000 / 6, abs=75)
    assert np.corrcoef([p.top for p in placements], [p.left for p in placements])[0, 1] == pytest.approx(0, abs=0.1)


def test_one_to_eight_holes_are_drawn_anew_for_each_image_or_fixed(drawn, noise):
    *_, holes = drawn
    numbers = np.bincount([len(places) for places in holes], minlength=9)
    assert numbers[0] == 0
    assert all(count == pytest.approx(125, abs=50) for count in numbers[1:])
    holes.clear()
    for _ in range(50):
        Augmentation(32, num_holes=5)(noise)
    assert {len(places) for places in holes} == {5}
