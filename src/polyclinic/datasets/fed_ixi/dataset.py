"""Prepared IXI volumes as a federated dataset; arrays are mapped, a sample is read when it is asked for.

Data: IXI (brain-development.org), made small by F. Pérez-García for TorchIO, Comput. Methods Programs Biomed. 2021,
208:106236; masks by ROBEX.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from polyclinic.datasets.fed_ixi.prepare import IMAGES, LABELS, SHAPE, ensure_prepared, read_manifest
from polyclinic.datasets.fed_ixi.subjects import CENTERS
from polyclinic.datasets.federated_dataset import center_index
from polyclinic.errors import DatasetError

Transform = Callable[[Tensor], Tensor]


class _Volumes(Dataset[tuple[Tensor, Tensor]]):
    """Rows of the prepared arrays."""

    def __init__(self, folder: Path, rows: Sequence[int], transform: Transform | None, dtype: torch.dtype) -> None:
        self.folder = folder
        self.rows = tuple(rows)
        self.transform = transform
        self.dtype = dtype
        self._arrays: tuple[NDArray[np.float32], NDArray[np.uint8]] | None = None
        self._open()

    def _open(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        if self._arrays is None:
            try:
                images = np.load(self.folder / IMAGES, mmap_mode="r")
                labels = np.load(self.folder / LABELS, mmap_mode="r")
            except (OSError, ValueError) as err:
                raise DatasetError(
                    f"the prepared arrays in {self.folder} cannot be read: {err}",
                    to_do="remove this folder and prepare the data again",
                ) from err
            too_few = bool(self.rows) and max(self.rows) >= min(len(images), len(labels))
            if too_few or images.shape[1:] != (1, *SHAPE) or labels.shape[1:] != SHAPE:
                raise DatasetError(
                    f"the prepared arrays in {self.folder} do not fit their manifest: "
                    f"{IMAGES} {images.shape}, {LABELS} {labels.shape}",
                    to_do="remove this folder and prepare the data again",
                )
            self._arrays = images, labels
        return self._arrays

    def __getstate__(self) -> dict[str, Any]:
        # A mapped array would be pickled as a copy of all its bytes; a worker maps the file itself.
        return self.__dict__ | {"_arrays": None}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, labels = self._open()
        row = self.rows[index]
        image = torch.from_numpy(np.array(images[row])).to(self.dtype)
        brain = torch.from_numpy(np.array(labels[row]))
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
        folder = ensure_prepared(data_path, flamby_compatible=flamby_compatible)
        subjects = read_manifest(folder)["subjects"]
        self.subjects = [subject["id"] for subject in subjects]
        self.centers = np.array([CENTERS.index(subject["hospital"]) for subject in subjects])
        self.sets = np.array([subject["split"] for subject in subjects])
        super().__init__(folder, range(len(subjects)), transform, dtype)


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
        folder = ensure_prepared(data_path, flamby_compatible=flamby_compatible)
        subjects = read_manifest(folder)["subjects"]
        rows = [
            row
            for row, subject in enumerate(subjects)
            if subject["split"] == split and (pooled or subject["hospital"] == CENTERS[number])
        ]
        if not rows:
            raise DatasetError(
                f"{folder} holds no {split} subject of {'any center' if pooled else CENTERS[number]}",
                to_do="check that the data of this hospital were prepared in there",
            )
        self.subjects = [subjects[row]["id"] for row in rows]
        super().__init__(folder, rows, transform, dtype)
