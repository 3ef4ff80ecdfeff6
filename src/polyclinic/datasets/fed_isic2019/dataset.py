"""Prepared ISIC 2019 images as a federated dataset; arrays are mapped, an image is read when it is asked for.

Data: ISIC 2019 = HAM10000 (Tschandl et al., Scientific Data 2018), BCN20000 (Combalia et al., arXiv:1908.02288) and
MSK (Codella et al., arXiv:1710.05006).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from polyclinic.datasets.fed_isic2019.images import SHORTER_SIDE
from polyclinic.datasets.fed_isic2019.prepare import IMAGE, NAME, ensure_prepared, parameters_of
from polyclinic.datasets.fed_isic2019.published import CENTERS
from polyclinic.datasets.fed_isic2019.transforms import CROP, MAX_HOLES, Augmentation, CenterCrop
from polyclinic.datasets.federated_dataset import center_index
from polyclinic.datasets.prepared import Prepared, PreparedItem
from polyclinic.errors import DatasetError

Transform = Callable[[Tensor], Tensor]


class _Images(Dataset[tuple[Tensor, Tensor]]):
    """Some of the images of a prepared folder."""

    def __init__(
        self, prepared: Prepared, items: Sequence[PreparedItem], transform: Transform | None, dtype: torch.dtype
    ) -> None:
        self.images = [item.id for item in items]
        self.targets = np.array([item.facts["target"] for item in items], dtype=np.int64)
        self.centers = np.array([item.facts["center"] for item in items], dtype=np.int64)
        self.transform = transform
        self.dtype = dtype
        self._prepared = prepared

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        # A copy, since a map may not be written to and its file may be closed.
        image = torch.from_numpy(np.array(self._prepared.array(self.images[index], IMAGE)))
        x = image if self.transform is None else self.transform(image)
        return x.to(self.dtype), torch.tensor(self.targets[index])


class Isic2019Raw(_Images):
    """All images in the list's order, without a choice of fold.

    ``images``, ``targets``, ``centers`` and ``sets`` ("train" or "test") tell of each. Without a ``transform``, an
    item is (height, width, 3) as prepared, in [0, 255], and the class as int64.
    """

    def __init__(
        self,
        *,
        data_path: str | Path | None = None,
        transform: Transform | None = None,
        dtype: torch.dtype = torch.float32,
        flamby_compatible: bool = False,
        shorter_side: int = SHORTER_SIDE,
    ) -> None:
        prepared = _open(data_path, flamby_compatible, shorter_side)
        self.sets = np.array([item.facts["split"] for item in prepared.items])
        super().__init__(prepared, prepared.items, transform, dtype)


class FedIsic2019(_Images):
    """One center, or all with ``pooled``; items are ((3, 200, 200) image, int64 class).

    Args:
        center: number or name; not looked at when pooled.
        train: the training part, with augmentation, else the test part, the middle of each image.
        pooled: all centers, in the list's order.
        data_path: prepared data; or raw data, which are prepared first, once.
        transform: instead of the augmentation or the middle: from (height, width, 3) uint8 as prepared to the input.
        dtype: of the image.
        flamby_compatible: colours as in FLamby (the data must be prepared in this way), and one number of black
            squares for all images, drawn when the dataset is made.
        shorter_side: of the prepared images; the crop is 200/224 of it.

    Raises:
        ConfigError: no such center.
        DatasetError: the data cannot be read, or hold no image of this part.
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
        shorter_side: int = SHORTER_SIDE,
    ) -> None:
        number = center_index(center, CENTERS)
        split = "train" if train else "test"
        prepared = _open(data_path, flamby_compatible, shorter_side)
        items = [
            item
            for item in prepared.items
            if item.facts["split"] == split and (pooled or item.facts["center"] == number)
        ]
        if not items:
            raise DatasetError(
                f"{prepared.folder} holds no {split} image of {'any center' if pooled else CENTERS[number]}",
                to_do="check that the data of this center were prepared in there",
            )
        if transform is None:
            crop = round(shorter_side * CROP / SHORTER_SIDE)
            holes = int(torch.randint(1, MAX_HOLES + 1, ())) if flamby_compatible and train else None
            transform = Augmentation(crop, holes) if train else CenterCrop(crop)
        super().__init__(prepared, items, transform, dtype)


def _open(data_path: str | Path | None, flamby_compatible: bool, shorter_side: int) -> Prepared:
    folder = ensure_prepared(data_path, flamby_compatible=flamby_compatible, shorter_side=shorter_side)
    return Prepared(folder, dataset=NAME, parameters=parameters_of(flamby_compatible, shorter_side))
