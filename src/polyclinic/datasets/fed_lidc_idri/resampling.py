"""Volumes and masks with voxels of 1 mm, by linear interpolation.

The middle of a new voxel i of n lies at  (i + 1/2) N / n - 1/2  between the N old ones, on each axis; before the middle
of the first old voxel, and beyond that of the last, is what is there.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

Spacing = tuple[float, float, float]  # mm

# Slices of 2.5 mm put every fifth new voxel right between two slices; rounding must not decide there.
_HALF = 0.5 + 1e-4


def to_one_mm(volume: NDArray[np.float32], spacing: Spacing) -> NDArray[np.float32]:
    """(x, y, z) with voxels of 1 mm."""
    size = tuple(max(1, round(n * mm)) for n, mm in zip(volume.shape, spacing, strict=True))
    # Torch works fastest on what is contiguous: slices come as (z, y, x).
    stack = torch.from_numpy(np.ascontiguousarray(volume.transpose(2, 1, 0)))
    resized = F.interpolate(stack[None, None], size=size[::-1], mode="trilinear", align_corners=False)
    return resized[0, 0].numpy().transpose(2, 1, 0)


def to_one_mm_as_flamby(volume: NDArray[np.float32], spacing: Spacing) -> NDArray[np.float32]:
    """The same by scikit-image, which mixes zeros into the outermost voxels."""
    from skimage.transform import resize

    size = np.round(np.array(volume.shape) * spacing).astype(int)
    resized: NDArray[np.float32] = resize(  # type: ignore[no-untyped-call]
        volume, size, order=1, mode="constant", preserve_range=True, anti_aliasing=False
    )
    return resized


def mask_to_one_mm(mask: NDArray[np.bool_], size: Sequence[int]) -> tuple[tuple[slice, ...], NDArray[np.bool_]]:
    """Where a mask is more than one half after interpolation, computed only around what is in it.

    Args:
        mask: (x, y, z), not empty.
        size: the shape with voxels of 1 mm.

    Returns:
        A box in the resized volume, and the mask in it; all else is outside of the mask.
    """
    place = []
    lines = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    box = [(max(int(k[0]) - 1, 0), min(int(k[-1]) + 2, n)) for k, n in zip(lines, mask.shape, strict=True)]
    block = mask[tuple(slice(*ends) for ends in box)].astype(np.float64)
    for axis, ((first, end), old, new) in enumerate(zip(box, mask.shape, size, strict=True)):
        middles = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
        below = np.floor(middles).astype(np.int64)
        above = np.minimum(below + 1, old - 1)
        kept = np.flatnonzero((below >= first) & (above < end))
        weight = np.expand_dims((middles - below)[kept], [a for a in range(3) if a != axis])
        block = (1 - weight) * block.take(below[kept] - first, axis) + weight * block.take(above[kept] - first, axis)
        place.append(slice(int(kept[0]), int(kept[-1]) + 1) if len(kept) else slice(0, 0))
    return tuple(place), block > _HALF
