"""The plan that everybody shares: spacing, patch, pooling and intensities, frozen in ``plan.json``.

nnU-Net derives these numbers from all images, which in a federation nobody sees together; so they are fixed here, once.
README.md in this folder says where each comes from. `planner` holds nnU-Net's rule that spacing, patch and pooling
follow from.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Intensity:
    """How Hounsfield units become what the network sees: clipped to [low, high], then (value - mean) / sd."""

    low: float
    high: float
    mean: float
    sd: float


@dataclass(frozen=True)
class Plan:
    """Axes are (z, y, x), z from slice to slice.

    Attributes:
        spacing: of the prepared volumes, in mm.
        patch_size: in voxels.
        pool_strides: of the network, from the top down.
        intensity: of all hospitals, unless asked otherwise.
    """

    spacing: tuple[float, float, float]
    patch_size: Triple
    pool_strides: tuple[Triple, ...]
    intensity: Intensity


def _load() -> Plan:
    content = json.loads(resources.files(__package__).joinpath("plan.json").read_text("utf-8"))
    return Plan(
        spacing=tuple(content["spacing"]),
        patch_size=tuple(content["patch_size"]),
        pool_strides=tuple(tuple(strides) for strides in content["pool_strides"]),
        intensity=Intensity(**content["intensity"]),
    )


PLAN = _load()
