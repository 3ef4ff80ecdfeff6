"""nnU-Net's rule for the low-resolution stage of a 3-D plan (planner 2.1 of version 1).

The frozen plan came from it; it is not needed to train. Isensee et al., nnU-Net, Nature Methods 2021, 18:203-211,
supplementary note 2. Axes are (z, y, x).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LARGEST_PATCH = 512
_SMALLEST_SIZE = 4  # voxels that pooling must leave
_BASE_FEATURES, _MOST_FEATURES = 32, 320
_NUM_CHANNELS, _NUM_CLASSES = 1, 3
# Of feature maps, in numbers; what a GPU of 11 GB holds for a batch of two.
_MOST_VALUES = 520_000_000 * _BASE_FEATURES / 30
_VIEWS = 4  # a patient may have at most this many times the voxels of a patch, for the network to see enough of it

Sizes = NDArray[np.int64]
Spacing = NDArray[np.float64]


@dataclass(frozen=True)
class Stage:
    """One resolution: spacing in mm, the median patient's and the patch's size in voxels, and the pooling."""

    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    patch_size: tuple[int, ...]
    pool_strides: tuple[tuple[int, ...], ...]


def target_spacing(spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """The spacing of full resolution: the median over cases; finer along an axis that is coarse and short."""
    all_spacings = np.asarray(spacings, dtype=np.float64)
    target = np.median(all_spacings, axis=0)
    size = np.median(np.asarray(shapes), axis=0)
    coarsest = int(np.argmax(target))
    others = [axis for axis in range(3) if axis != coarsest]
    is_coarse = target[coarsest] > 3 * target[others].max()
    if is_coarse and 3 * size[coarsest] < size[others].min():
        finer = float(np.percentile(all_spacings[:, coarsest], 10))
        in_plane = float(target[others].max())
        target[coarsest] = finer if finer >= in_plane else in_plane + 1e-5
    return tuple(target.tolist())


def low_resolution_stage(spacing: Sequence[float], shape: Sequence[int]) -> Stage:
    """The stage that sees much of a patient at once; the full resolution itself where that is small enough.

    Args:
        spacing: of full resolution, in mm.
        shape: of the median patient at that spacing, in voxels.
    """
    full_spacing, full_shape = np.asarray(spacing, dtype=np.float64), np.asarray(shape, dtype=np.int64)
    full = _configure(full_spacing, full_shape)
    if math.prod(full.shape) < _VIEWS * math.prod(full.patch_size):
        return full
    coarser, stage, voxels = full_spacing.copy(), full, float(math.prod(full.shape))
    while voxels > _VIEWS * math.prod(stage.patch_size):
        fine = coarser.max() / coarser > 2
        coarser[fine if fine.any() else slice(None)] *= 1.01
        voxels = float(np.prod(full_spacing / coarser * full_shape))
        stage = _configure(coarser, np.round(full_spacing / coarser * full_shape).astype(np.int64))
    return stage if 2 * math.prod(stage.shape) < math.prod(full.shape) else full


def _configure(spacing: Spacing, shape: Sizes) -> Stage:
    """The largest patch, in the proportions of the patient, whose network fits into memory."""
    patch = np.round(_LARGEST_PATCH * spacing.max() / spacing).astype(np.int64)
    patch, strides = _pooling(spacing, np.minimum(patch, shape))
    while _memory(patch, strides) > _MOST_VALUES:
        axis = int(np.argsort(patch / shape)[-1])
        smaller = patch.copy()
        smaller[axis] -= math.prod(stride[axis] for stride in strides)
        # The smaller patch may allow less pooling, and then a smaller step.
        _, fewer = _pooling(spacing, smaller)
        patch[axis] -= math.prod(stride[axis] for stride in fewer)
        patch, strides = _pooling(spacing, patch)
    return Stage(tuple(spacing.tolist()), tuple(shape.tolist()), tuple(patch.tolist()), strides)


def _pooling(spacing: Spacing, patch: Sizes) -> tuple[Sizes, tuple[tuple[int, ...], ...]]:
    """The patch, padded to what pooling divides, and the strides: axes are halved until all are about as coarse."""
    spacing, size = spacing.copy(), patch.astype(np.float64)
    strides: list[tuple[int, ...]] = []
    while (large := size >= 2 * _SMALLEST_SIZE).any():
        chosen = large & (spacing / spacing[large].min() < 2)
        if chosen.sum() == 1 and size[chosen][0] < 3 * _SMALLEST_SIZE:
            break
        strides.append(tuple(np.where(chosen, 2, 1).tolist()))
        spacing[chosen] *= 2
        size[chosen] = np.ceil(size[chosen] / 2)
    divisor = np.prod(np.array(strides, dtype=np.int64).reshape(-1, 3), axis=0)
    return -(-patch // divisor) * divisor, tuple(strides)


def _memory(patch: Sizes, strides: Sequence[tuple[int, ...]]) -> float:
    """About how many values the feature maps of a network with this patch hold."""
    size = patch.astype(np.float64)
    values = (5 * _BASE_FEATURES + _NUM_CHANNELS + _NUM_CLASSES) * float(np.prod(size))
    for level, stride in enumerate(strides, start=1):
        size /= stride
        maps = 2 if level == len(strides) else 5  # the bottom has no way up
        values += maps * float(np.prod(size)) * min(_BASE_FEATURES * 2**level, _MOST_FEATURES)
    return values
