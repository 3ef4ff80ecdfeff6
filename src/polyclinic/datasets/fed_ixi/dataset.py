"""Prepared IXI volumes as a federated dataset; arrays are mapped, a sample is read when it is asked for.

Data: IXI (brain-development.org), made small by F. Pérez-García for TorchIO, Comput. Methods Programs Biomed. 2021,
208:106236; masks by ROBEX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from polyclinic.datasets.fed_ixi.prepare import IMAGES, LABELS, open_prepared
from polyclinic.datasets.fed_ixi.subjects import CENTERS
from polyclinic.datasets.federated_dataset import center_index
from polyclinic.datasets.preparation import Prepared
from polyclinic.errors import DatasetError

Transform = Callable[[Tensor], Tensor]


class _Volumes(Dataset[tuple[Tensor, Tensor]]):
    """Rows of the prepared arrays."""

    def __init__(self, data: Prepared, rows: Sequence[int], transform: Transform | None, dtype: torch.dtype) -> None:
        self.rows = tuple(rows)
        self.transform = transform
        self.dtype = dtype
        self._data = data
        # Here and not only at the first sample: damaged files are found before training begins.
        data.stacked(IMAGES), data.stacked(LABELS)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        row = self.rows[index]
        image = torch.from_numpy(np.array(self._data.stacked(IMAGES)[row])).to(self.dtype)
        brain = torch.from_numpy(np.array(self._data.stacked(LABELS)[row]))
        target = torch.stack([1 - brain, brain]).to(self.dtype)
        return (self.transform(image) if self.transform else image), target


class IXITinyRaw(_Volumes):
    """All subjects by rising number, without a choice of split.

    ``subjects`` (n,) ids, ``centers`` (n,) numbers and ``sets`` (n,) of "train" and "test" say where each belongs.
    Arguments and items are those of `FedIXITiny`.
    """

    def __init__(
        self,
        *,
        data_path: str | Path | None = None,
        transform: Transform | None = None,
        dtype: torch.dtype = torch.float32,
        flamby_compatible: bool = False,
    ) -> None:
        data = open_prepared(data_path, flamby_compatible=flamby_compatible)
        self.subjects = [subject.id for subject in data.items]
        self.centers = np.array([CENTERS.index(subject.facts["hospital"]) for subject in data.items])
        self.sets = np.array([subject.facts["split"] for subject in data.items])
        super().__init__(data, range(len(data.items)), transform, dtype)


class FedIXITiny(_Volumes):
    """One center, or all with ``pooled``; items are ((1, 48, 60, 48) image, (2, 48, 60, 48) one-hot target).

    Args:
        center: number or name ("Guys", "HH", "IOP"); not looked at when pooled.
        train: the training part, else the test part.
        pooled: all centers, by rising patient number.
        data_path: prepared data; or raw data (folder or zip), which are prepared first, once.
        transform: applied to the image at each access, not to the target.
        dtype: of image and target.
        flamby_compatible: masks that are eroded as in FLamby; the data must be prepared in this way.

    Raises:
        ConfigError: no such center.
        DatasetError: the data cannot be read, or hold no subject of this part.
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
    ) -> None:
        number = center_index(center, CENTERS)
        split = "train" if train else "test"
        data = open_prepared(data_path, flamby_compatible=flamby_compatible)
        rows = [
            row
            for row, subject in enumerate(data.items)
            if subject.facts["split"] == split and (pooled or subject.facts["hospital"] == CENTERS[number])
        ]
        if not rows:
            raise DatasetError(
                f"{data.folder} holds no {split} subject of {'any center' if pooled else CENTERS[number]}",
                to_do="check that the data of this hospital were prepared in there",
            )
        self.subjects = [data.items[row].id for row in rows]
        super().__init__(data, rows, transform, dtype)
