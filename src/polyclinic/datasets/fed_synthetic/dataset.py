"""Generated data as a federated dataset: those of a folder that `generate` wrote, or the default set, made in memory.

A third of each center is its test part, drawn as in Fed-Heart-Disease: 66 % to 34 %, scikit-learn with seed 43,
stratified by "class 0 or another" where both have more than two samples. Features are not standardised.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from polyclinic.datasets.fed_heart_disease.dataset import train_rows
from polyclinic.datasets.fed_synthetic.generator import NUM_CLIENTS, SMALLEST_CENTER, Array, Options, synthetic_data
from polyclinic.datasets.federated_dataset import center_index
from polyclinic.datasets.table import TableDataset, Transform
from polyclinic.errors import DatasetError

CENTERS = tuple(f"center {number}" for number in range(NUM_CLIENTS))
ARGUMENTS = "arguments.json"
HOW_TO_GET_IT = (
    "make a folder with  polyclinic dataset generate --to DIR , or give no path: the default set is then made in memory"
)


def center_files(data_path: str | Path) -> dict[int, Path]:
    """``0.data``, ``1.data``, … of a folder by their numbers, in order. A hospital may hold its own alone.

    Raises:
        DatasetError: there are none.
    """
    found = {int(path.stem): path for path in Path(data_path).glob("*.data") if path.stem.isdecimal()}
    if not found:
        raise DatasetError(f"there is no file like 0.data in {data_path}", to_do=HOW_TO_GET_IT)
    return dict(sorted(found.items()))


def centers_at(data_path: str | Path | None) -> tuple[str, ...]:
    """The names of the centers of a generated folder, up to its highest number; those of the default set for None."""
    return CENTERS if data_path is None else tuple(f"center {k}" for k in range(max(center_files(data_path)) + 1))


def read_center(path: Path) -> tuple[Array, Array]:
    """(n, d) features and (n, 1) targets of one file: comma-separated numbers, no header, the target last.

    Raises:
        DatasetError: the file is no such table.
    """
    try:
        table = pd.read_csv(path, header=None)
    except (ValueError, UnicodeDecodeError) as err:
        raise DatasetError(f"{path} cannot be read as a table: {err}", to_do=HOW_TO_GET_IT) from err
    if table.shape[1] < 2:
        raise DatasetError(f"{path} has one column, where features and a target must be", to_do=HOW_TO_GET_IT)
    unfit = [str(k) for k in table if not pd.api.types.is_numeric_dtype(table[k]) or table[k].isna().any()]
    if unfit:
        raise DatasetError(
            f"{path} has missing values or text in {len(unfit)} columns, first of all column {unfit[0]}",
            to_do="every cell must be a number; make the folder anew",
        )
    if len(table) < SMALLEST_CENTER:
        raise DatasetError(
            f"{path} has {len(table)} samples, which cannot be split into training and test",
            to_do=f"a center needs at least {SMALLEST_CENTER}",
        )
    values = table.to_numpy(dtype=np.float64)
    return values[:, :-1], values[:, -1:]


@cache
def _default_set() -> list[tuple[Array, Array]]:
    # It is the same with and without flamby_compatible: the seed is 42, and no features are shifted.
    return synthetic_data(Options())


def _read(data_path: str | Path | None, numbers: list[int]) -> list[tuple[Array, Array]]:
    if data_path is None:
        return [_default_set()[number] for number in numbers]
    files = center_files(data_path)
    if missing := [f"{number}.data" for number in numbers if number not in files]:
        raise DatasetError(
            f"{data_path} lacks {', '.join(missing)}", to_do="copy the whole folder, or ask for a center that is there"
        )
    centers = [read_center(files[number]) for number in numbers]
    if len(widths := sorted({x.shape[1] for x, _ in centers})) > 1:
        raise DatasetError(
            f"the centers in {data_path} have different numbers of features: {', '.join(map(str, widths))}",
            to_do="make all of them in one call of generate()",
        )
    return centers


def _train_rows(y: Array) -> NDArray[np.bool_]:
    return train_rows((y != 0).astype(np.float64))


class SyntheticRaw(TableDataset):
    """All samples of all centers, without a choice of split.

    ``centers`` (n,) and ``sets`` (n,) of "train" and "test" say where each row belongs.
    """

    def __init__(
        self,
        *,
        data_path: str | Path | None = None,
        transform: Transform | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        parts = _read(data_path, list(range(len(centers_at(data_path)))))
        self.centers = np.repeat(np.arange(len(parts)), [len(y) for _, y in parts])
        self.sets = np.where(np.concatenate([_train_rows(y) for _, y in parts]), "train", "test")
        x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        super().__init__(x, y, transform=transform, dtype=dtype)


class FedSynthetic(TableDataset):
    """One center, or all with ``pooled``; items are ((d,) features, (1,) target) of ``dtype``.

    Args:
        center: number or name; not looked at when pooled.
        train: the training part, else the test part.
        pooled: the centers one after the other.
        data_path: a folder that `generate` wrote, with as many centers as there are; None: the default set.
        transform: applied to the features at each access.
        flamby_compatible: changes nothing here; what differs is in the generator and in `Baseline`.

    Raises:
        ConfigError: no such center.
        DatasetError: the data cannot be read.
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
        del flamby_compatible
        names = centers_at(data_path)
        parts = _read(data_path, list(range(len(names))) if pooled else [center_index(center, names)])
        wanted = [_train_rows(y) == train for _, y in parts]
        super().__init__(
            np.concatenate([x[rows] for (x, _), rows in zip(parts, wanted, strict=True)]),
            np.concatenate([y[rows] for (_, y), rows in zip(parts, wanted, strict=True)]),
            transform=transform,
            dtype=dtype,
        )
