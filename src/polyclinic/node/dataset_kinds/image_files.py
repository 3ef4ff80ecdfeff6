"""Image files as float32 arrays in [0, 1], and a torch Dataset of them.

Pixels of 8 and 16 bits are divided by 255 and 65535; floating-point pixels must lie in [0, 1] already. Grey becomes
colour by repetition, colour becomes grey by Pillow's luma (ITU-R 601-2). Resizing is bilinear, and averages
when it shrinks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import DatasetChanged, DatasetError

try:
    from PIL import Image, ImageOps
except ImportError:
    raise DatasetError("reading images needs Pillow", to_do="pip install 'polyclinic[imaging]'") from None

if TYPE_CHECKING:
    import torch

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".npy")
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R 601-2, as Pillow's


class UnreadableImage(Exception):
    """Says why in a few words, without the file's name."""


def read_image(path: Path) -> NDArray[np.float32]:
    """(H, W, C) in [0, 1] with C 1 or 3, upright by the file's orientation mark.

    Raises:
        UnreadableImage: no image, several pages, or pixels that are not finite or not in [0, 1].
    """
    try:
        pixels = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else _read_pillow(path)
    # Decoders raise all kinds of errors on damaged files; none of them may stop the check of the others.
    except FileNotFoundError:
        raise
    except UnreadableImage:
        raise
    except Exception as err:
        raise UnreadableImage(f"not readable, {type(err).__name__}") from None
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or pixels.size == 0:
        raise UnreadableImage("not of shape (H, W), (H, W, 1) or (H, W, 3)")
    if pixels.dtype in (np.dtype(np.uint8), np.dtype(np.uint16)):
        return pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    if pixels.dtype == np.bool_:
        return pixels.astype(np.float32)
    if pixels.dtype.kind != "f":
        raise UnreadableImage("pixels neither of 8 or 16 bits without sign nor floating-point")
    if not np.isfinite(pixels).all():
        raise UnreadableImage("nan or infinite pixels")
    if pixels.min() < 0 or pixels.max() > 1:
        raise UnreadableImage("floating-point pixels outside [0, 1]")
    return pixels.astype(np.float32)


def _read_pillow(path: Path) -> NDArray[np.generic]:
    with Image.open(path) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise UnreadableImage("several pages in one file")
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            return np.asarray(upright).astype(np.uint16)
        if upright.mode == "I":
            wide = np.asarray(upright)
            if wide.min() < 0 or wide.max() > np.iinfo(np.uint16).max:
                raise UnreadableImage("pixels of more than 16 bits")
            return wide.astype(np.uint16)
        if upright.mode in ("1", "L", "F"):
            return np.asarray(upright)
        if upright.mode in ("LA", "La"):
            return np.asarray(upright.convert("L"))
        return np.asarray(upright.convert("RGB"))


def with_channels(pixels: NDArray[np.float32], channels: int) -> NDArray[np.float32]:
    """(H, W, channels) of (H, W, 1 or 3)."""
    if pixels.shape[2] == channels:
        return pixels
    converted: NDArray[np.float32] = np.repeat(pixels, 3, axis=2) if channels == 3 else (pixels @ _LUMA)[:, :, None]
    return converted


def resized(pixels: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """(size[0], size[1], C) of (H, W, C)."""
    if pixels.shape[:2] == size:
        return pixels
    # Channel by channel, because Pillow has no floating-point colour; 8 bits would lose what 16 had.
    planes: list[NDArray[np.float32]] = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(pixels[:, :, c])).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        )
        for c in range(pixels.shape[2])
    ]
    return np.clip(np.stack(planes, axis=2), 0, 1)


class ImageFiles:
    """A map-style torch dataset: x float32 (C, H, W) in [0, 1], y int64 (). Files are read when asked for."""

    def __init__(
        self, files: Sequence[Path], labels: Sequence[int], *, channels: int, size: tuple[int, int] | None
    ) -> None:
        self.files = tuple(files)
        self.labels = tuple(labels)
        self.channels = channels
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        try:
            pixels = with_channels(read_image(self.files[index]), self.channels)
        except (FileNotFoundError, UnreadableImage) as err:
            reason = "vanished" if isinstance(err, FileNotFoundError) else str(err)
            raise DatasetChanged(
                f"image {index} of {len(self)} can no longer be read: {reason}",
                to_do="ask the node's data manager to put the file back, or to register the dataset again",
            ) from err
        if self.size is not None:
            pixels = resized(pixels, self.size)
        return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))), torch.tensor(self.labels[index])
