"""From a JPEG to the pixels that are trained on: smaller, and with the colour of the light taken out.

Shades of Gray (Finlayson and Trezzi, Color Imaging Conference 2004), power 6, without gamma: with m[c] the mean of
channel c's sixth powers to the power 1/6, channel c is multiplied by |m| / (sqrt(3) m[c]), |m| the Euclidean norm.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import DatasetError

SHORTER_SIDE = 224
_POWER = 6
_GRAY = np.arange(256, dtype=np.float64)

Pixels = NDArray[np.uint8]


def prepare_image(content: bytes, *, shorter_side: int = SHORTER_SIDE, flamby_compatible: bool = False) -> Pixels:
    """(height, width, 3) uint8, the shorter side as asked for.

    Args:
        content: of a JPEG file.
        flamby_compatible: colours that get too bright wrap around to dark ones, and the result goes through JPEG.

    Raises:
        DatasetError: Pillow is not installed, or this is no whole image.
    """
    try:
        # Here and not above: whoever trains on prepared data does not need it.
        from PIL import Image
    except ModuleNotFoundError as err:
        raise DatasetError(
            "reading JPEG files needs Pillow, which is not installed", to_do="pip install 'polyclinic[imaging]'"
        ) from err
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(content)).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as err:
        # Pillow's text names the address of the bytes in memory, which tells nobody anything.
        reason = "it is cut off" if "truncated" in str(err) else "it is no readable image"
        raise DatasetError(f"its JPEG file is damaged: {reason}") from err
    resize = _size_as_flamby if flamby_compatible else _size
    small = image.resize(resize(image.size, shorter_side), Image.Resampling.BILINEAR)
    pixels = constant_colour(np.asarray(small), wrap=flamby_compatible)
    if flamby_compatible:
        packed = io.BytesIO()
        Image.fromarray(pixels).save(packed, "JPEG")
        pixels = np.asarray(Image.open(packed))
    return pixels


def constant_colour(image: Pixels, *, wrap: bool = False) -> Pixels:
    """(height, width, 3) with Shades of Gray applied: rounded, and cut off at 255.

    A channel without any light stays as it is.

    Args:
        wrap: as FLamby: truncated, and 256 becomes 0.
    """
    gains = channel_gains(image)
    # A channel has 256 values at most, so each is computed once.
    scaled = _GRAY[:, None] * gains
    table = scaled.astype(np.int64) % 256 if wrap else np.clip(np.rint(scaled), 0, 255)
    return np.take_along_axis(table.astype(np.uint8), image.reshape(-1, 3).astype(np.intp), axis=0).reshape(image.shape)


def channel_gains(image: Pixels) -> NDArray[np.float64]:
    """(3,) what each channel is multiplied by; 1 for a channel that is 0 all over."""
    counts = np.stack([np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)])
    means = (counts @ _GRAY**_POWER / counts.sum(axis=1)) ** (1 / _POWER)
    lit = means > 0
    return np.where(lit, np.linalg.norm(means) / (np.sqrt(3) * np.where(lit, means, 1.0)), 1.0)


def _size(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    width, height = size
    shorter = min(size)
    return max(1, width * shorter_side // shorter), max(1, height * shorter_side // shorter)


def _size_as_flamby(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    # Floating point makes the shorter side of about one size in twelve a pixel too short.
    ratio = shorter_side / min(size)
    return int(size[0] * ratio), int(size[1] * ratio)
