"""A table in memory as a torch Dataset."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

Transform = Callable[[Tensor], Tensor]


class TableDataset(Dataset[tuple[Tensor, Tensor]]):
    """Rows of features and targets.

    Args:
        x: (n, features).
        y: (n, targets).
        transform: applied to the features of one row, (features,), at each access.
        dtype: of both the features and the targets.

    ``tensors`` is (x, y) of all rows, as in torch's TensorDataset, so that training may take whole batches by
    index; it is None with a transform, which must see one row at a time.
    """

    def __init__(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        *,
        transform: Transform | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._x = torch.as_tensor(x).to(dtype)
        self._y = torch.as_tensor(y).to(dtype)
        self.transform = transform
        self.tensors: tuple[Tensor, Tensor] | None = None if transform else (self._x, self._y)

    def __len__(self) -> int:
        return len(self._x)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x = self._x[index]
        return (self.transform(x) if self.transform else x), self._y[index]
