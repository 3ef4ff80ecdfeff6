"""Prepared LIDC-IDRI scans as a federated dataset: an item is a scan's patches, read from mapped files.

Data: Armato et al., The Lung Image Database Consortium (LIDC) and Image Database Resource Initiative (IDRI), Med.
Phys. 2011, 38:915.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from polyclinic.datasets.fed_lidc_idri.prepare import DATASET, ensure_prepared, parameters
from polyclinic.datasets.fed_lidc_idri.sampling import Sampler, Shape, place_in_box
from polyclinic.datasets.fed_lidc_idri.series import CENTERS
from polyclinic.datasets.federated_dataset import center_index
from polyclinic.datasets.prepared import Prepared, PreparedItem
from polyclinic.errors import DatasetError

Transform = Callable[[Tensor], Tensor]

LOWEST_HU, HIGHEST_HU = -1024, 600  # what 0 and 1 stand for in an image


class _Scans(Dataset[tuple[Tensor, Tensor]]):
    """Patches of the prepared scans with these items."""

    def __init__(
        self,
        prepared: Prepared,
        items: Sequence[PreparedItem],
        sampler: Sampler,
        transform: Transform | None,
        dtype: torch.dtype,
    ) -> None:
        self.prepared = prepared
        self.items = tuple(items)
        self.series = [item.id for item in items]
        self.sampler = sampler
        self.transform = transform
        self.dtype = dtype

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        item = self.items[index]
        image = self.prepared.array(item.id, "image")
        place = place_in_box(image.shape, self.sampler.out_shape)
        nodules = self._nodules(item, place)
        corners = self.sampler.corners(nodules)
        shape = (len(corners), *self.sampler.sizes)
        images = np.empty(shape, dtype=np.float32)
        # Loss and metric take any dtype. FLamby's takes eight times the memory, and as much longer to move to a GPU.
        targets = np.zeros(shape, dtype=np.int64 if self.sampler.flamby_compatible else np.uint8)
        for number, corner in enumerate(corners):
            _read(image, place, corner, self.sampler.out_shape, item.facts["lowest"], images[number])
            _mark(nodules, corner, targets[number])
        x = torch.from_numpy(images).to(self.dtype)
        return (self.transform(x) if self.transform else x), torch.from_numpy(targets)

    def _nodules(self, item: PreparedItem, place: Shape) -> Tensor:
        """(n, 3) int64 voxels of nodules, in the box."""
        voxels = self.prepared.array(item.id, "voxels")
        if not self.sampler.flamby_compatible:
            votes = np.bitwise_count(self.prepared.array(item.id, "readers"))
            voxels = voxels[2 * votes.astype(np.int64) >= item.facts["num_readers"]]
        in_box = np.asarray(voxels, dtype=np.int64) + place
        inside = ((in_box >= 0) & (in_box < self.sampler.out_shape)).all(axis=1)
        return torch.from_numpy(in_box[inside])


def _read(
    image: NDArray[np.int16], place: Shape, corner: Shape, box: Shape, outside: int, patch: NDArray[np.float32]
) -> None:
    """Fills a patch of [0, 1] from the scan; where the scan is not, or is cut off, from the value ``outside``."""
    source, target = [], []
    for n, at, low, size, edge in zip(image.shape, place, corner, patch.shape, box, strict=True):
        first, last = max(low, at, 0), min(low + size, at + n, edge)
        source.append(slice(first - at, max(first, last) - at))
        target.append(slice(first - low, max(first, last) - low))
    units = image[tuple(source)]
    if units.shape != patch.shape:
        patch.fill(outside)
    # Straight into the patch, and changed there: another array of this size would cost more than the arithmetic.
    patch[tuple(target)] = units
    np.clip(patch, np.float32(LOWEST_HU), np.float32(HIGHEST_HU), out=patch)
    patch -= np.float32(LOWEST_HU)
    patch /= np.float32(HIGHEST_HU - LOWEST_HU)


def _mark(nodules: Tensor, corner: Shape, patch: NDArray[np.uint8] | NDArray[np.int64]) -> None:
    here = nodules.numpy() - corner
    here = here[((here >= 0) & (here < patch.shape)).all(axis=1)]
    patch[tuple(here.T)] = 1


class LidcIdriRaw(_Scans):
    """All prepared scans by UID, without a choice of split.

    ``series`` (n,) UIDs, ``centers`` (n,) numbers and ``sets`` (n,) of "train" and "test" say where each belongs.
    Arguments and items are those of `FedLidcIdri` in training.
    """

    def __init__(
        self,
        *,
        data_path: str | Path | None = None,
        transform: Transform | None = None,
        dtype: torch.dtype = torch.float32,
        flamby_compatible: bool = False,
        out_shape: Sequence[int] = (384, 384, 384),
        patch_size: int = 128,
        n_patches: int = 2,
        ratio: float = 0.8,
        sampler: str = "fast",
    ) -> None:
        prepared = _open(data_path, flamby_compatible)
        chosen = Sampler(sampler, patch_size, n_patches, ratio, _shape(out_shape), flamby_compatible)
        super().__init__(prepared, prepared.items, chosen, transform, dtype)
        self.centers = np.array([item.facts["center"] for item in self.items])
        self.sets = np.array([item.facts["split"] for item in self.items])


class FedLidcIdri(_Scans):
    """One center, or all with ``pooled``.

    Items, with S patches a scan and edges of 128 voxels (mm): ((S, 128, 128, 128) image in [0, 1], target of the same
    shape, uint8 of 0 and 1). In training S = 2: one patch at a random place, then one at a nodule. In test S = 27,
    the whole box in C order. `collate_fn` joins them to batches (batch * S, 1, 128, 128, 128).

    Args:
        center: number or name ("GE", "Philips", "SIEMENS", "TOSHIBA"); not looked at when pooled.
        train: the training part, else the test part.
        pooled: all centers, by UID.
        data_path: prepared data; or raw data, which are prepared first, once.
        transform: applied to the patches of a scan at each access, after they are in [0, 1]; not to the target.
        dtype: of the image.
        flamby_compatible: masks, intensities, places of patches and the target's dtype, int64, as in FLamby; the data
            must be prepared in this way.
        out_shape: the box that scans are padded or cut to, voxels.
        patch_size: edge of a patch.
        n_patches: patches a scan in training.
        ratio: the part of them, rounded down, that lies at a nodule.
        sampler: in training "fast", "random", "all" or "none", see `Sampler`; in test it is always "all".

    Raises:
        ConfigError: no such center, or settings that do not fit together.
        DatasetError: the data cannot be read, or hold no scan of this part.
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
        out_shape: Sequence[int] = (384, 384, 384),
        patch_size: int = 128,
        n_patches: int = 2,
        ratio: float = 0.8,
        sampler: str = "fast",
    ) -> None:
        number = center_index(center, CENTERS)
        split = "train" if train else "test"
        kind = sampler if train else "all"
        chosen = Sampler(kind, patch_size, n_patches, ratio, _shape(out_shape), flamby_compatible)
        prepared = _open(data_path, flamby_compatible)
        items = [
            item
            for item in prepared.items
            if item.facts["split"] == split and (pooled or item.facts["center"] == number)
        ]
        if not items:
            raise DatasetError(
                f"{prepared.folder} holds no {split} scan of {'any center' if pooled else CENTERS[number]}",
                to_do="check that the data of this center were prepared in there",
            )
        super().__init__(prepared, items, chosen, transform, dtype)


def collate_fn(scans: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Joins the patches of several scans: images and targets, each (scans * S, 1, x, y, z)."""
    if len(scans) == 1:
        # The usual batch; to join one scan would copy all of it.
        return scans[0][0][:, None], scans[0][1][:, None]
    images, targets = zip(*scans, strict=True)
    return torch.cat(images)[:, None], torch.cat(targets)[:, None]


def _open(data_path: str | Path | None, flamby_compatible: bool) -> Prepared:
    folder = ensure_prepared(data_path, flamby_compatible=flamby_compatible)
    return Prepared(folder, dataset=DATASET, parameters=parameters(flamby_compatible))


def _shape(sizes: Sequence[int]) -> Shape:
    # Settings that came as JSON are lists.
    return tuple(int(size) for size in sizes)  # type: ignore[return-value]
