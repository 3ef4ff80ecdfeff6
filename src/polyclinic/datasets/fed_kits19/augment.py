"""Random changes of a training patch: nnU-Net's default set for 3-D, as FLamby uses it.

In this order: elastic deformation, turning and scaling, each with probability 0.2; gamma with probability 0.3; each
axis mirrored with probability 0.5. Isensee et al., nnU-Net, Nature Methods 2021, 18:203-211, supplementary note 4.
Axes are (z, y, x).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SPATIAL_PROBABILITY = 0.2  # of each of elastic deformation, turning and scaling
ALPHAS, SIGMAS = (0.0, 900.0), (9.0, 13.0)  # of the elastic deformation: its strength and its smoothness, in voxels
MOST_RADIANS = math.radians(15)  # around each axis
SCALES = (0.85, 1.25)
GAMMA_PROBABILITY, GAMMAS = 0.3, (0.7, 1.5)
MIRROR_PROBABILITY = 0.5

Patch = NDArray[np.float32]


def augment(image: Patch, label: Patch, rng: np.random.Generator) -> tuple[Patch, Patch]:
    """(z, y, x) image and labels, changed together; new arrays of the same shape."""
    image, label = spatial(image, label, rng)
    if rng.random() < GAMMA_PROBABILITY:
        image = gamma(image, around_one(GAMMAS, rng))
    for axis in range(3):
        if rng.random() < MIRROR_PROBABILITY:
            image, label = np.flip(image, axis), np.flip(label, axis)
    return np.ascontiguousarray(image), np.ascontiguousarray(label)


def spatial(image: Patch, label: Patch, rng: np.random.Generator) -> tuple[Patch, Patch]:
    """Deformed, turned and scaled around the middle, or left as they are; what comes from outside is 0."""
    offsets, matrix = None, np.eye(3)
    if rng.random() < SPATIAL_PROBABILITY:
        offsets = elastic_offsets(image.shape, rng.uniform(*ALPHAS), rng.uniform(*SIGMAS), rng)
    if rng.random() < SPATIAL_PROBABILITY:
        for axis in range(3):
            matrix = matrix @ rotation(axis, rng.uniform(-MOST_RADIANS, MOST_RADIANS))
    if rng.random() < SPATIAL_PROBABILITY:
        matrix = matrix * around_one(SCALES, rng)
    if offsets is None and (matrix == np.eye(3)).all():
        return image, label
    moved = np.zeros_like(label)
    for value in np.unique(label[label > 0]):
        # Each label by itself: between kidney and background there is no tumour.
        moved[_sample((label == value).astype(np.float32), matrix, offsets, order=1) >= 0.5] = value
    return _sample(image, matrix, offsets, order=3), moved


def elastic_offsets(
    shape: tuple[int, ...], alpha: float, sigma: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(3, z, y, x) shifts in voxels: smoothed noise. Simard et al., ICDAR 2003."""
    noise = rng.uniform(-1, 1, (3, *shape)).astype(np.float32)
    smooth = np.stack([ndimage.gaussian_filter(part, sigma, mode="constant") for part in noise])
    result: NDArray[np.float32] = smooth * np.float32(alpha)
    return result


def gamma(image: Patch, exponent: float) -> Patch:
    """The range of the patch brought to [0, 1], taken to a power and brought back; mean and sd stay what they were."""
    low, extent = image.min(), np.ptp(image)
    mean, sd = image.mean(dtype=np.float64), image.std(dtype=np.float64)
    bent = ((image - low) / (extent + 1e-7)) ** exponent * extent + low
    bent = (bent - bent.mean(dtype=np.float64)) / (bent.std(dtype=np.float64) + 1e-8) * sd + mean
    result: Patch = bent.astype(np.float32)
    return result


def around_one(limits: tuple[float, float], rng: np.random.Generator) -> float:
    """Below 1 and above 1 with equal probability, uniform in each part."""
    low, high = limits
    return float(rng.uniform(low, 1.0) if rng.random() < 0.5 else rng.uniform(1.0, high))


def rotation(axis: int, angle: float) -> NDArray[np.float64]:
    """(3, 3) turn around one axis, angle in radians."""
    first, second = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[first, first] = matrix[second, second] = math.cos(angle)
    matrix[first, second], matrix[second, first] = -math.sin(angle), math.sin(angle)
    return matrix


def _sample(array: Patch, matrix: NDArray[np.float64], offsets: NDArray[np.float32] | None, *, order: int) -> Patch:
    """The array at (place - middle + offset) @ matrix + middle of each place."""
    middle = (np.array(array.shape) - 1) / 2
    if offsets is None:
        # The same without an array of coordinates.
        shift = middle - matrix.T @ middle
        turned: Patch = ndimage.affine_transform(array, matrix.T, shift, order=order, mode="constant")
        return turned
    places = np.indices(array.shape, dtype=np.float32) - middle[:, None, None, None].astype(np.float32) + offsets
    places = np.tensordot(matrix.T.astype(np.float32), places, axes=1) + middle[:, None, None, None]
    resampled: Patch = ndimage.map_coordinates(array, places, order=order, mode="constant")
    return resampled
