"""Prepared KiTS19 volumes as a federated dataset; arrays are mapped, and only what a patch needs is read.

Data: Heller et al., The KiTS19 Challenge Data, arXiv:1904.00445. Patches: nnU-Net, Isensee et al., Nature Methods 2021,
18:203-211.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from polyclinic.datasets.fed_kits19.augment import augment as augmented
from polyclinic.datasets.fed_kits19.cases import CENTERS
from polyclinic.datasets.fed_kits19.patches import Corner, corner_around, cut, random_corner
from polyclinic.datasets.fed_kits19.plan import PLAN
from polyclinic.datasets.fed_kits19.prepare import DATASET, IMAGE, LABEL, PLACES, Statistics, ensure_prepared
from polyclinic.datasets.federated_dataset import center_index
from polyclinic.datasets.prepared import Prepared, PreparedItem
from polyclinic.errors import ConfigError, DatasetError

Transform = Callable[[Tensor], Tensor]


class _Cases(Dataset[tuple[Tensor, Tensor]]):
    """Patches of prepared cases, one a case and access; or whole volumes."""

    def __init__(
        self,
        prepared: Prepared,
        items: Sequence[PreparedItem],
        *,
        patch_size: Sequence[int] | None,
        whole: bool,
        augment: bool,
        alternate: bool,
        transform: Transform | None,
        dtype: torch.dtype,
    ) -> None:
        self.patch_size = _checked(patch_size)
        self.images = [item.id for item in items]
        self.centers = [item.facts["center"] for item in items]
        self.transform = transform
        self.dtype = dtype
        self.oversample_next_sample = False  # FLamby's name
        self._prepared = prepared
        self._num_places = [tuple(item.facts["places"]) for item in items]
        self._whole, self._augment, self._alternate = whole, augment, alternate

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        name = self.images[index]
        image, label = self._prepared.array(name, IMAGE), self._prepared.array(name, LABEL)
        x, y = self._volume(image, label) if self._whole else self._patch(index, image, label)
        image_tensor = torch.from_numpy(x)[None].to(self.dtype)
        target = torch.from_numpy(y)[None].to(self.dtype)
        return (self.transform(image_tensor) if self.transform else image_tensor), target

    def with_patch_size(self, patch_size: Sequence[int]) -> Self:
        """The same cases with patches of another size, for a plan's ``training_data``; ConfigError for no such size."""
        other = copy.copy(self)
        other.patch_size = _checked(patch_size)
        return other

    def _volume(
        self, image: NDArray[np.float16], label: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return cut(image, (0, 0, 0), image.shape), cut(label, (0, 0, 0), label.shape)

    def _patch(
        self, index: int, image: NDArray[np.float16], label: NDArray[np.uint8]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        # One draw from torch's global generator, which experiments and DataLoader workers seed; the rest follows.
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        corner = self._corner(index, image.shape, rng)
        x, y = cut(image, corner, self.patch_size), cut(label, corner, self.patch_size)
        return augmented(x, y, rng) if self._augment else (x, y)

    def _corner(self, index: int, shape: tuple[int, ...], rng: np.random.Generator) -> Corner:
        forced = self.oversample_next_sample
        if self._alternate:
            self.oversample_next_sample = not forced
        else:
            # A coin instead of a memory, so that a round that is repeated after a crash sees the same patches.
            forced = rng.random() < 0.5
        counts = self._num_places[index]
        present = [value for value, count in enumerate(counts) if count]
        if not forced or not present:
            return random_corner(shape, self.patch_size, rng)
        chosen = int(rng.choice(present))
        row = sum(counts[:chosen]) + int(rng.integers(counts[chosen]))
        voxel = self._prepared.array(self.images[index], PLACES)[row]
        return corner_around(voxel, shape, self.patch_size)


class FedKits19(_Cases):
    """One center, or all with ``pooled``.

    A training item is a random patch of a case, with random changes: ((1, *patch_size) image, (1, *patch_size) labels
    0, 1, 2). A test item is a whole volume, ((1, z, y, x), (1, z, y, x)), see `collate_fn` and
    `sliding_window_predict`.
    All that is random follows torch's global generator.

    Args:
        center: number or name ("site 7" …); not looked at when pooled.
        train: the training part, else the test part.
        pooled: all centers, by rising case number.
        data_path: prepared data; or a folder with raw data, which are prepared first, once.
        transform: applied to the image at each access, after the random changes; not to the target.
        dtype: of image and target.
        flamby_compatible: as in FLamby: test items are random patches too, every other one around a voxel of kidney or
            tumour; and the data must be prepared in this way.
        patch_size: (z, y, x) voxels; default 64 x 192 x 192.
        augment: False leaves out the random changes of training patches.
        statistics: how the data are prepared, see `prepare`.

    Raises:
        ConfigError: no such center, or no such patch.
        DatasetError: the data cannot be read, or hold no case of this part.
    """

    def __init__(
        self,
        *,
        center: int | str = 0,
        train: bool = True,
        pooled: bool = False,
        data_path: str | Path | None = None,
        transform: Transform | None = None,
        dtype: torch.dtype = torch.float32,
        flamby_compatible: bool = False,
        patch_size: Sequence[int] | None = None,
        augment: bool = True,
        statistics: Statistics = "plan",
    ) -> None:
        number = center_index(center, CENTERS)
        split = "train" if train else "test"
        folder = ensure_prepared(data_path, flamby_compatible=flamby_compatible, statistics=statistics)
        prepared = Prepared(folder, dataset=DATASET)
        items = [
            item
            for item in prepared.items
            if item.facts["split"] == split and (pooled or item.facts["center"] == number)
        ]
        if not items:
            raise DatasetError(
                f"{folder} holds no {split} case of {'any center' if pooled else CENTERS[number]}",
                to_do="check that the data of this center were prepared in there",
            )
        super().__init__(
            prepared,
            items,
            patch_size=patch_size,
            whole=not train and not flamby_compatible,
            augment=augment and train,
            alternate=flamby_compatible,
            transform=transform,
            dtype=dtype,
        )


class Kits19Raw(_Cases):
    """All cases by rising number, without a choice of split.

    ``images`` (n,) names, ``centers`` (n,) numbers and ``train_test`` (n,) of "train" and "test" say where each
    belongs. Arguments and items are those of `FedKits19`: ``train`` says which kind of items.
    """

    def __init__(
        self,
        *,
        train: bool = True,
        data_path: str | Path | None = None,
        transform: Transform | None = None,
        dtype: torch.dtype = torch.float32,
        flamby_compatible: bool = False,
        patch_size: Sequence[int] | None = None,
        augment: bool = True,
        statistics: Statistics = "plan",
    ) -> None:
        folder = ensure_prepared(data_path, flamby_compatible=flamby_compatible, statistics=statistics)
        prepared = Prepared(folder, dataset=DATASET)
        self.train_test = [item.facts["split"] for item in prepared.items]
        super().__init__(
            prepared,
            prepared.items,
            patch_size=patch_size,
            whole=not train and not flamby_compatible,
            augment=augment and train,
            alternate=flamby_compatible,
            transform=transform,
            dtype=dtype,
        )


def collate_fn(batch: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """(n, 1, z, y, x) images and labels; items of different size get zeros behind them, up to the largest.

    `sliding_window_predict` leaves these zeros out, so that the outcome does not depend on who shares a batch.
    """
    images, targets = zip(*batch, strict=True)
    return _joined(images), _joined(targets)


def _joined(volumes: Sequence[Tensor]) -> Tensor:
    if len({volume.shape for volume in volumes}) == 1:
        return torch.stack(list(volumes))
    size = [max(volume.shape[axis] for volume in volumes) for axis in (1, 2, 3)]
    joined = volumes[0].new_zeros(len(volumes), 1, *size)
    for place, volume in zip(joined, volumes, strict=True):
        z, y, x = volume.shape[1:]
        place[:, :z, :y, :x] = volume
    return joined


def _checked(patch_size: Sequence[int] | None) -> tuple[int, int, int]:
    if patch_size is None:
        return PLAN.patch_size
    sizes = tuple(int(size) for size in patch_size)
    if len(sizes) != 3 or min(sizes) < 1:
        raise ConfigError(
            f"a patch has three sizes (z, y, x) of at least 1 voxel, not {tuple(patch_size)}",
            to_do=f"leave patch_size out for {PLAN.patch_size}",
        )
    z, y, x = sizes
    return z, y, x
