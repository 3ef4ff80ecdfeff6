"""nnU-Net's resampling: cubic in the slices, and from slice to slice the nearest one where slices lie far apart.

Isensee et al., nnU-Net, Nature Methods 2021, 18:203-211. Axes are (z, y, x).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.fed_kits19.plan import Intensity
from polyclinic.errors import DatasetError

_ANISOTROPIC = 3  # the coarsest spacing over the finest, above which axes are treated apart


def new_shape(shape: Sequence[int], spacing: Sequence[float], target: Sequence[float]) -> tuple[int, ...]:
    """The size in voxels at the target spacing."""
    return tuple(max(1, round(size * step / wanted)) for size, step, wanted in zip(shape, spacing, target, strict=True))


def separate_axis(spacing: Sequence[float], target: Sequence[float]) -> int | None:
    """The axis that is resampled apart from the two others; None if all three are treated alike."""
    for steps in (spacing, target):
        if max(steps) / min(steps) > _ANISOTROPIC:
            coarsest = [axis for axis, step in enumerate(steps) if step == max(steps)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resample_image(volume: NDArray[np.float32], shape: Sequence[int], axis: int | None = None) -> NDArray[np.float32]:
    """Cubic; along ``axis``, if there is one, the nearest slice. Borders are continued, and nothing is smoothed."""
    resized = _in_parts(volume, shape, axis, order=3)
    return resized.astype(np.float32, copy=False)


def resample_label(label: NDArray[np.uint8], shape: Sequence[int], axis: int | None = None) -> NDArray[np.uint8]:
    """Each label by itself: where its share, interpolated linearly, is at least one half; the higher label wins."""
    resized = np.zeros(tuple(shape), dtype=np.uint8)
    for value in np.unique(label[label > 0]):
        share = _in_parts((label == value).astype(np.float32), shape, axis, order=1)
        resized[share >= 0.5] = value
    return resized


def normalise(volume: NDArray[np.float32], intensity: Intensity) -> NDArray[np.float32]:
    """Clipped, then minus the mean and over the standard deviation."""
    clipped = np.clip(volume, intensity.low, intensity.high)
    result: NDArray[np.float32] = ((clipped - intensity.mean) / intensity.sd).astype(np.float32)
    return result


def _in_parts(volume: NDArray[Any], shape: Sequence[int], axis: int | None, *, order: int) -> NDArray[Any]:
    if tuple(shape) == volume.shape:
        return volume
    if axis is None:
        return _resize(volume, shape, order)
    slices = np.moveaxis(volume, axis, 0)
    in_plane = [size for k, size in enumerate(shape) if k != axis]
    # The slice whose middle is nearest to the middle of the new one.
    nearest = np.floor((np.arange(shape[axis]) + 0.5) * len(slices) / shape[axis]).astype(np.intp)
    resized = np.stack([_resize(part, in_plane, order) for part in slices])
    return np.moveaxis(resized[nearest], 0, axis)


def _resize(array: NDArray[Any], shape: Sequence[int], order: int) -> NDArray[Any]:
    if tuple(shape) == array.shape:
        return array
    try:
        from skimage.transform import resize
    except ModuleNotFoundError as err:
        raise DatasetError(
            "resampling needs scikit-image, which is not installed", to_do="pip install 'polyclinic[imaging]'"
        ) from err
    # Cubic splines overshoot; clip keeps the values in the range that was there.
    resized: NDArray[Any] = resize(  # type: ignore[no-untyped-call]
        array, tuple(shape), order=order, mode="edge", clip=True, anti_aliasing=False
    )
    return resized
