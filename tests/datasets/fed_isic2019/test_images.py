from __future__ import annotations

import io

import numpy as np
import pytest

from polyclinic.datasets.fed_isic2019.images import channel_gains, constant_colour, prepare_image
from polyclinic.errors import DatasetError


def jpeg(pixels):
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95)
    return out.getvalue()


@pytest.fixture
def tinted():
    """(40, 60, 3) under reddish light: some red values get dark, some blue ones get brighter than 255."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (40, 60, 3)) * np.array([1.0, 0.8, 0.45])
    image[:2] = 250
    return image.astype(np.uint8)


def by_formula(image):
    """Shades of Gray, pixel by pixel, in floating point."""
    means = [np.mean(image[..., c].astype(float) ** 6) ** (1 / 6) for c in range(3)]
    unit = np.array(means) / np.sqrt(np.sum(np.square(means)))
    return image * (1 / (unit * np.sqrt(3)))


def test_colours_are_those_of_the_formula_cut_off_at_white(tinted):
    expected = by_formula(tinted)
    assert (expected > 256).any()
    got = constant_colour(tinted)
    assert (got.shape, got.dtype) == (tinted.shape, np.uint8)
    assert np.abs(got - np.clip(expected, 0, 255)).max() <= 0.5 + 1e-9


def test_as_flamby_what_is_too_bright_wraps_to_dark(tinted):
    expected = by_formula(tinted)
    too_bright = expected >= 256
    got = constant_colour(tinted, wrap=True).astype(float)
    assert (got == np.floor(expected) % 256).all()
    assert (got[too_bright] < 150).all()
    assert (constant_colour(tinted)[too_bright] == 255).all()


def test_afterwards_the_light_is_gray(tinted):
    means = [np.mean((tinted[..., c] * channel_gains(tinted)[c]) ** 6) ** (1 / 6) for c in range(3)]
    assert max(means) == pytest.approx(min(means))


def test_gray_light_changes_nothing(tinted):
    gray = np.repeat(tinted[..., :1], 3, axis=2)
    np.testing.assert_allclose(channel_gains(gray), 1)
    assert (constant_colour(gray) == gray).all()


def test_without_light_there_is_nothing_to_divide_by():
    black = np.zeros((8, 9, 3), dtype=np.uint8)
    assert (constant_colour(black) == 0).all()
    assert (constant_colour(black, wrap=True) == 0).all()
    no_blue = np.full((8, 9, 3), 100, dtype=np.uint8)
    no_blue[..., 2] = 0
    # |m| = sqrt(2) 100, so both lit channels are multiplied by sqrt(2 / 3).
    assert (constant_colour(no_blue) == [82, 82, 0]).all()


@pytest.mark.parametrize(
    ("size", "side", "expected"),
    [
        ((450, 600), 224, (224, 298)),
        ((1024, 1024), 224, (224, 224)),
        ((600, 450), 224, (298, 224)),
        ((30, 40), 36, (36, 48)),
    ],
)
def test_the_shorter_side_is_as_asked_for(size, side, expected):
    image = np.full((*size, 3), 120, dtype=np.uint8)
    assert prepare_image(jpeg(image), shorter_side=side).shape == (*expected, 3)


def test_pixels_are_bilinear_means_as_torch_has_them():
    import torch
    from PIL import Image

    rng = np.random.default_rng(0)
    content = jpeg(np.kron(rng.integers(0, 256, (15, 20, 3)), np.ones((6, 6, 1))).astype(np.uint8))
    whole = torch.from_numpy(np.array(Image.open(io.BytesIO(content)))).permute(2, 0, 1)[None].float()
    small = torch.nn.functional.interpolate(whole, (36, 48), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    expected = np.clip(by_formula(small.numpy()), 0, 255)
    # Pillow rounds once after each axis, and the colours then multiply that by up to a third.
    assert np.abs(prepare_image(content, shorter_side=36) - expected).max() < 3


def test_as_flamby_some_sizes_lose_a_pixel():
    image = jpeg(np.full((401, 500, 3), 120, dtype=np.uint8))
    assert prepare_image(image).shape[0] == 224
    assert prepare_image(image, flamby_compatible=True).shape[0] == 223


def test_as_flamby_the_result_is_what_jpeg_leaves_of_it(tinted):
    from PIL import Image

    content = jpeg(tinted)
    small = Image.open(io.BytesIO(content)).resize((60, 40), Image.Resampling.BILINEAR)
    packed = io.BytesIO()
    Image.fromarray((np.floor(by_formula(np.asarray(small))) % 256).astype(np.uint8)).save(packed, "JPEG")
    expected = np.asarray(Image.open(packed))
    assert (prepare_image(content, shorter_side=40, flamby_compatible=True) == expected).all()
    assert (prepare_image(content, shorter_side=40) != expected).any()


def test_a_gray_jpeg_gets_three_channels():
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(np.full((30, 30), 90, dtype=np.uint8)).save(out, "JPEG")
    assert (prepare_image(out.getvalue(), shorter_side=20) == 90).all()


def test_what_is_no_whole_image_is_refused(tinted):
    content = jpeg(tinted)
    with pytest.raises(DatasetError, match="damaged: it is cut off"):
        prepare_image(content[: len(content) // 2])
    for bad in (b"", b"<html>not found</html>", content[10:]):
        with pytest.raises(DatasetError, match="damaged: it is no readable image"):
            prepare_image(bad)


def test_an_image_of_absurd_size_is_refused(tinted, monkeypatch):
    from PIL import Image

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1500)
    with pytest.raises(DatasetError, match="no readable image"):
        prepare_image(jpeg(tinted))


def test_real_images_get_gray_light(shared):
    paths = sorted((shared / "data" / "ham10000_jpg" / "full").glob("*.jpg"))[:4]
    for path in paths:
        pixels = prepare_image(path.read_bytes())
        assert pixels.shape == (224, 298, 3)
        means = np.mean(pixels.astype(float) ** 6, axis=(0, 1)) ** (1 / 6)
        # Not exactly: values are rounded, and cut off at white.
        assert means.max() / means.min() < 1.03
