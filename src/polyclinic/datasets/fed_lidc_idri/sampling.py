"""Which patches of a scan are seen, and reading just these from the mapped scan.

A scan lies in the middle of a box, 384 x 384 x 384 by default: what is missing is filled with the scan's lowest
value, what is too much is cut off. No array of the box is ever made: patches are chosen first, by their corners in
the box, and each is read from the file of the scan.

All draws come from torch's global generator, so that the seed of an experiment decides them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from polyclinic.errors import ConfigError, nearest

SAMPLERS = ("fast", "random", "all", "none")
PATCHES_A_SCAN = 27  # of 128 x 128 x 128 in 384 x 384 x 384

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Sampler:
    """How patches are chosen.

    Args:
        kind: "fast": of ``n_patches``, a part ``ratio`` (rounded down) around nodules, the others at random;
            "random": all at random; "all": the box as a grid; "none": the box as one patch.
        patch_size: edge of a patch, voxels (mm); even.
        n_patches: patches a scan, of "fast" and "random".
        ratio: the part of lesion patches, of "fast".
        out_shape: the box, voxels.
        flamby_compatible: no center of a patch lies within ``patch_size`` of a lower side, so that a border of half a
            patch is never seen; by default, half of it.

    Raises:
        ConfigError: a setting that does not fit the others.
    """

    kind: str = "fast"
    patch_size: int = 128
    n_patches: int = 2
    ratio: float = 0.8
    out_shape: Shape = (384, 384, 384)
    flamby_compatible: bool = False

    def __post_init__(self) -> None:
        if self.kind not in SAMPLERS:
            raise ConfigError(f"there is no sampler {self.kind!r}", to_do=nearest(self.kind, SAMPLERS))
        if len(self.out_shape) != 3 or min(self.out_shape) < 1:
            raise ConfigError(
                f"out_shape must be three sizes, not {self.out_shape}", to_do="for example (384, 384, 384)"
            )
        if self.patch_size < 4 or self.patch_size % 4:
            raise ConfigError(f"patch_size must be a multiple of 4, not {self.patch_size}", to_do="for example 128")
        if self.n_patches < 1 or not 0 <= self.ratio <= 1:
            raise ConfigError(
                f"n_patches must be at least 1 and ratio in [0, 1], not {self.n_patches} and {self.ratio}",
                to_do="for example n_patches=2, ratio=0.8",
            )
        if self.kind == "all" and any(size % self.patch_size for size in self.out_shape):
            raise ConfigError(
                f"out_shape {self.out_shape} is no grid of patches of {self.patch_size}",
                to_do="give an out_shape that is a multiple of patch_size on each axis",
            )
        needed = self.patch_size * (1.5 if self.flamby_compatible else 1)
        if self.kind in ("fast", "random") and min(self.out_shape) < needed:
            raise ConfigError(
                f"patches of {self.patch_size} do not fit in an out_shape of {self.out_shape}",
                to_do="give a smaller patch_size",
            )

    @property
    def sizes(self) -> Shape:
        """The shape of each patch."""
        return self.out_shape if self.kind == "none" else (self.patch_size,) * 3

    def corners(self, nodules: Tensor) -> list[Shape]:
        """The lowest corner of each patch, in the box.

        Args:
            nodules: (n, 3) int64 voxels of nodules in the box; where there are none, all patches are at random.
        """
        if self.kind == "none":
            return [(0, 0, 0)]
        if self.kind == "all":
            steps = [range(0, size, self.patch_size) for size in self.out_shape]
            return [(x, y, z) for x in steps[0] for y in steps[1] for z in steps[2]]
        num_lesion = int(self.n_patches * self.ratio) if self.kind == "fast" and len(nodules) else 0
        centers = torch.cat([self._random_centers(self.n_patches - num_lesion), self._near(nodules, num_lesion)])
        half = self.patch_size // 2
        lowest = self.patch_size if self.flamby_compatible and len(nodules) else half
        highest = torch.tensor(self.out_shape) - half
        corners = torch.minimum(centers.clamp_min(lowest), highest) - half
        return [(int(x), int(y), int(z)) for x, y, z in corners.tolist()]

    def _random_centers(self, count: int) -> Tensor:
        """(count, 3): normal around the middle, with a twelfth of the box as standard deviation; truncated."""
        box = torch.tensor(self.out_shape, dtype=torch.float32)
        return (box / 2 + torch.randn(count, 3) * (box / 12)).to(torch.int64)

    def _near(self, nodules: Tensor, count: int) -> Tensor:
        """(count, 3): a voxel of a nodule, moved on each axis by a quarter of a patch at most."""
        if not count:
            return torch.empty(0, 3, dtype=torch.int64)
        chosen = nodules[torch.randint(len(nodules), (count,))]
        noise = (torch.rand(count, 3) * self.patch_size).to(torch.int64) % (self.patch_size // 2)
        return chosen + noise - self.patch_size // 4


def place_in_box(shape: Shape, box: Shape) -> Shape:
    """Where the scan's first voxel lies in the box; negative where the scan is cut off.

    Of an odd number of missing voxels the larger half goes before the scan; of too many the smaller half.
    """
    x, y, z = (-(-(b - n) // 2) for n, b in zip(shape, box, strict=True))
    return x, y, z
