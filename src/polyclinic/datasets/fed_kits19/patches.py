"""Where a patch is taken from a volume, and reading just that part of it.

nnU-Net's rule: a patch may reach over the volume's border, by as much as turning and scaling may need; every other
patch has a voxel of kidney or tumour in its middle. Axes are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from polyclinic.datasets.fed_kits19.augment import MOST_RADIANS, SCALES, rotation

Corner = tuple[int, ...]


def margin(patch_size: Sequence[int], shape: Sequence[int]) -> NDArray[np.int64]:
    """(3,) voxels that a patch may reach over the volume's two borders together, along each axis."""
    patch, size = np.asarray(patch_size), np.asarray(shape)
    need = _turned_size(patch_size) - patch
    # A volume that is smaller than the patch even so must be padded to its size.
    enough: NDArray[np.int64] = np.maximum(need, patch - size)
    return enough


def random_corner(shape: Sequence[int], patch_size: Sequence[int], rng: np.random.Generator) -> Corner:
    """The lowest corner of a patch anywhere; may be negative."""
    need = margin(patch_size, shape)
    lowest = -((need + 1) // 2)
    highest = np.asarray(shape) + need // 2 + need % 2 - np.asarray(patch_size)
    return tuple(rng.integers(lowest, highest, endpoint=True).tolist())


def corner_around(voxel: Sequence[int], shape: Sequence[int], patch_size: Sequence[int]) -> Corner:
    """The lowest corner of a patch with this voxel in its middle, or nearer to its lower end."""
    lowest = -((margin(patch_size, shape) + 1) // 2)
    corner = np.maximum(lowest, np.asarray(voxel, dtype=np.int64) - np.asarray(patch_size) // 2)
    return tuple(corner.tolist())


def cut(volume: NDArray[Any], corner: Sequence[int], patch_size: Sequence[int]) -> NDArray[np.float32]:
    """(z, y, x) float32 patch, 0 outside of the volume; only what lies in the patch is read from the volume."""
    patch = np.zeros(tuple(patch_size), dtype=np.float32)
    there, here = [], []
    for start, size, end in zip(corner, patch_size, volume.shape, strict=True):
        first, last = max(start, 0), max(min(start + size, end), max(start, 0))
        there.append(slice(first, last))
        here.append(slice(first - start, last - start))
    # By torch, which turns half precision into single several times as fast as numpy.
    torch.from_numpy(patch)[tuple(here)] = torch.from_numpy(np.array(volume[tuple(there)]))
    return patch


def _turned_size(patch_size: Sequence[int]) -> NDArray[np.int64]:
    """About what a patch needs to stay filled when it is turned around an axis and shrunk; (131, 276, 237) for ours.

    It follows the corner with positive coordinates alone, as batchgenerators does; so the last axis gets less.
    """
    patch = np.asarray(patch_size, dtype=np.float64)
    turned = [np.abs(patch @ rotation(axis, MOST_RADIANS)) for axis in range(3)]
    largest: NDArray[np.float64] = np.max([patch, *turned], axis=0)
    return (largest / SCALES[0]).astype(np.int64)
