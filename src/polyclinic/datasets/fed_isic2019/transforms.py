"""From prepared pixels to the model's input: augmentation in training, the middle in tests.

Each of these happens with probability one half, in this order: scale by up to 7 %; rotate by up to 50 degrees, with
the image mirrored at its edges; brightness and contrast; flip; then always a random crop; then, again with one half,
1 to 8 squares of black; then standardisation with the mean and deviation of ImageNet. Scale, rotation, flip and crop
are one affine map, so that pixels are interpolated once, and only those of the crop.

All numbers are drawn from torch's global generator, which an experiment seeds, 29 for each image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from polyclinic.errors import ConfigError

CROP = 200
MAX_HOLES = 8
_MEAN = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64)[:, None, None]
_DEVIATION = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64)[:, None, None]
# (value / 255 - mean) / deviation as one product and one sum.
_FACTOR, _OFFSET = (1 / (255 * _DEVIATION)).float(), (-_MEAN / _DEVIATION).float()
_SCALE, _DEGREES, _BRIGHTNESS, _CONTRAST = 0.07, 50.0, 0.15, 0.1
_DRAWS = 13 + 2 * MAX_HOLES


@dataclass(frozen=True)
class Placement:
    """Where a crop lies: the image is scaled, turned about its middle, flipped, then cut at (top, left)."""

    scale: float = 1.0
    degrees: float = 0.0
    flip_vertical: bool = False  # upside down
    flip_horizontal: bool = False  # left to right
    top: float = 0.0  # as a share of the room there is, in [0, 1)
    left: float = 0.0


@dataclass(frozen=True)
class Augmentation:
    """(height, width, 3) uint8 -> (3, crop, crop) float32, at random.

    Args:
        crop: side of the square that is cut out, in pixels.
        num_holes: 1 to 8 black squares when there are any; None draws the number anew for each image.
    """

    crop: int = CROP
    num_holes: int | None = None

    def __call__(self, image: Tensor) -> Tensor:
        u = torch.rand(_DRAWS).tolist()
        scaled, turned, lit, flipped, holed = (value < 0.5 for value in u[:5])
        kind = int(3 * u[5])
        placement = Placement(
            scale=1 + _SCALE * (2 * u[6] - 1) if scaled else 1.0,
            degrees=_DEGREES * (2 * u[7] - 1) if turned else 0.0,
            flip_vertical=flipped and kind != 0,
            flip_horizontal=flipped and kind != 1,
            top=u[8],
            left=u[9],
        )
        pixels = cut(image, placement, self.crop)
        if lit:
            pixels = light(pixels, contrast=_CONTRAST * (2 * u[10] - 1), brightness=_BRIGHTNESS * (2 * u[11] - 1))
        if holed:
            number = self.num_holes or 1 + int(MAX_HOLES * u[12])
            punch(pixels, [(u[13 + 2 * k], u[14 + 2 * k]) for k in range(number)])
        return standardise(pixels)


@dataclass(frozen=True)
class CenterCrop:
    """(height, width, 3) uint8 -> (3, crop, crop) float32, the middle of the image."""

    crop: int = CROP

    def __call__(self, image: Tensor) -> Tensor:
        top, left = ((size - self.crop) // 2 for size in image.shape[:2])
        if min(top, left) < 0:
            raise _too_small(image, self.crop)
        return standardise(_channels_first(image[top : top + self.crop, left : left + self.crop]))


def cut(image: Tensor, placement: Placement, crop: int) -> Tensor:
    """(height, width, 3) uint8 -> (3, crop, crop) float32 in [0, 255]; bilinear, mirrored at the edges (101)."""
    height, width = image.shape[:2]
    if min(height, width) < crop:
        raise _too_small(image, crop)
    scaled_height, scaled_width = int(height * placement.scale), int(width * placement.scale)
    top = math.floor(placement.top * (max(scaled_height - crop, 0) + 1))
    left = math.floor(placement.left * (max(scaled_width - crop, 0) + 1))
    if placement.scale == 1 and placement.degrees == 0:
        rows = height - top - crop if placement.flip_vertical else top
        columns = width - left - crop if placement.flip_horizontal else left
        pixels = _channels_first(image[rows : rows + crop, columns : columns + crop])
        axes = [1] * placement.flip_vertical + [2] * placement.flip_horizontal
        return pixels.flip(axes) if axes else pixels
    # Backwards, from a pixel of the crop to its place in the image: unflip, turn back, scale back. Positions are
    # relative to the middle, where the flips are changes of sign.
    y = torch.arange(crop, dtype=torch.float32)[:, None] + (top - (scaled_height - 1) / 2)
    x = torch.arange(crop, dtype=torch.float32)[None, :] + (left - (scaled_width - 1) / 2)
    y, x = (-y if placement.flip_vertical else y), (-x if placement.flip_horizontal else x)
    cosine, sine = math.cos(math.radians(placement.degrees)), math.sin(math.radians(placement.degrees))
    # Counted from the middle and in halves of the image, from first to last pixel, as grid_sample has it.
    to_x, to_y = 2 * width / scaled_width / (width - 1), 2 * height / scaled_height / (height - 1)
    grid = torch.stack([(cosine * x - sine * y) * to_x, (sine * x + cosine * y) * to_y], dim=-1)
    return F.grid_sample(
        _channels_first(image)[None], grid[None], mode="bilinear", padding_mode="reflection", align_corners=True
    )[0]


def light(pixels: Tensor, *, contrast: float, brightness: float) -> Tensor:
    """v (1 + contrast) + 255 brightness, kept in [0, 255]."""
    return (pixels * (1 + contrast) + 255 * brightness).clamp_(0, 255)


def punch(pixels: Tensor, places: list[tuple[float, float]]) -> None:
    """Blackens squares of (3, size, size) in place: 16 pixels wide at a size of 200, in proportion at others.

    Args:
        places: top and left of each square, as shares of the room there is, in [0, 1).
    """
    size = pixels.shape[1]
    side = max(1, round(16 * size / CROP))
    for place in places:
        top, left = (math.floor(share * (size - side + 1)) for share in place)
        pixels[:, top : top + side, left : left + side] = 0


def standardise(pixels: Tensor) -> Tensor:
    """(3, height, width) in [0, 255] -> (value / 255 - mean) / deviation of ImageNet."""
    return torch.addcmul(_OFFSET, pixels, _FACTOR)


def _channels_first(image: Tensor) -> Tensor:
    # In this order: bytes are moved faster than floats.
    return image.permute(2, 0, 1).contiguous().float()


def _too_small(image: Tensor, crop: int) -> ConfigError:
    return ConfigError(
        f"an image of {image.shape[0]} x {image.shape[1]} pixels is smaller than the crop of {crop}",
        to_do="prepare the images larger, or give a smaller crop",
    )
