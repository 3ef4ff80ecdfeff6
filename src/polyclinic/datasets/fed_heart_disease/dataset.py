"""The four UCI Heart Disease tables as a federated dataset.

Rows with a missing value in a used column are dropped (920 -> 740). Ten columns are used, two of them one-hot
without their first level, which gives 13 features. A third of each center is its test part, drawn by scikit-learn
with seed 43, stratified by the target where both classes allow it. Features are standardised with the training
part of their own center (unbiased standard deviation).

Data: Janosi, Steinbrunn, Pfisterer, Detrano, UCI Machine Learning Repository, 1989, doi:10.24432/C52P4X.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from polyclinic.datasets.federated_dataset import center_index
from polyclinic.datasets.table import TableDataset, Transform
from polyclinic.errors import DatasetError

CENTERS = ("Cleveland", "Hungary", "Switzerland", "Long Beach VA")
NUM_CLIENTS = len(CENTERS)
# UCI's file of each center, and its mark in the table of this package.
SOURCES = ("cleveland", "hungarian", "switzerland", "va")
COLUMNS = (
    "age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak",
    "slope", "ca", "thal", "num",
)  # fmt: skip
FEATURES = (
    "age", "sex", "trestbps", "chol", "fbs", "thalach", "exang", "oldpeak",
    "cp=2", "cp=3", "cp=4", "restecg=1", "restecg=2",
)  # fmt: skip
_USED = (*COLUMNS[:10], "num")  # slope, ca and thal are missing for most patients outside Cleveland

_TRAIN_FRACTION = 0.66
_SEED = 43

Array = NDArray[np.float64]


def source_file(center: int) -> str:
    """The name of the center's file at UCI."""
    return f"processed.{SOURCES[center]}.data"


def read_table(center: int, data_path: str | Path | None = None) -> pd.DataFrame:
    """All rows of a center in UCI's order, 14 columns, NaN where UCI has "?".

    Args:
        data_path: a folder with UCI's files; None for the table that ships in the package.

    Raises:
        DatasetError: the file is absent, or is not a table of 14 numeric columns.
    """
    if data_path is None:
        shipped = _shipped_table()
        return shipped[shipped["center"] == SOURCES[center]].loc[:, list(COLUMNS)].reset_index(drop=True)
    path = Path(data_path) / source_file(center)
    if not path.is_file():
        raise DatasetError(
            f"there is no {path.name} in {data_path}",
            to_do="give the folder with UCI's processed.*.data files, or no path: the data ship in the package",
        )
    try:
        table = pd.read_csv(path, header=None, na_values="?", skipinitialspace=True)
    except (ValueError, UnicodeDecodeError) as err:
        raise DatasetError(f"{path} cannot be read as a table: {err}", to_do="download it again") from err
    if table.shape[1] != len(COLUMNS):
        raise DatasetError(
            f"{path} has {table.shape[1]} columns, expected {len(COLUMNS)}: {', '.join(COLUMNS)}",
            to_do="use UCI's processed.*.data files, not those with all 76 attributes",
        )
    table.columns = pd.Index(COLUMNS)
    text = [name for name in COLUMNS if not pd.api.types.is_numeric_dtype(table[name])]
    if text:
        raise DatasetError(
            f"{path} has values that are neither numbers nor '?' in: {', '.join(text)}",
            to_do="mend these columns",
        )
    return table.astype(float)


@cache
def _shipped_table() -> pd.DataFrame:
    with resources.files(__package__).joinpath("heart_disease.csv").open(encoding="utf-8") as opened:
        return pd.read_csv(opened, dtype=dict.fromkeys(COLUMNS, float))


def features_and_target(table: pd.DataFrame) -> tuple[Array, Array]:
    """(n, 13) features, not standardised, and (n, 1) targets 0 or 1, of the rows without missing values."""
    kept = table.loc[table[list(_USED)].notna().all(axis=1)]
    columns = [
        (kept[name.partition("=")[0]] == float(name.partition("=")[2])) if "=" in name else kept[name]
        for name in FEATURES
    ]
    x = np.column_stack([np.asarray(column, dtype=np.float64) for column in columns])
    y = np.asarray(kept["num"] != 0, dtype=np.float64)[:, None]
    return x, y


def train_rows(y: Array) -> NDArray[np.bool_]:
    """(n,) True for the rows of the training part; DatasetError if there are too few rows to split."""
    # Here and not above: scikit-learn imports rich, which draws from Python's global random generator.
    from sklearn.model_selection import train_test_split

    counts = np.unique(y, return_counts=True)[1]
    stratify = y[:, 0] if len(counts) > 1 and counts.min() > 2 else None
    if len(y) < 2:
        raise DatasetError(
            f"a center has {len(y)} complete rows, which cannot be split into training and test",
            to_do="look for missing values in the first ten columns",
        )
    chosen, _ = train_test_split(
        np.arange(len(y)),
        train_size=_TRAIN_FRACTION,
        test_size=1 - _TRAIN_FRACTION,
        random_state=_SEED,
        stratify=stratify,
    )
    marks = np.zeros(len(y), dtype=bool)
    marks[chosen] = True
    return marks


def standardise(x: Array, reference: Array) -> Array:
    """(x - mean) / std of the reference rows, std with n - 1; a column that is constant there becomes 0."""
    constant = reference.max(axis=0) == reference.min(axis=0)
    # A column without spread carries nothing to learn from; dividing by almost 0 would blow up another value in x.
    std = np.where(constant, 1.0, reference.std(axis=0, ddof=1)) if len(reference) > 1 else 1.0
    return np.where(constant, 0.0, (x - reference.mean(axis=0)) / std)


def _complete_rows(center: int, data_path: str | Path | None) -> tuple[Array, Array, NDArray[np.bool_]]:
    """(n, 13) features, (n, 1) targets and (n,) True for the rows of the training part."""
    x, y = features_and_target(read_table(center, data_path))
    if data_path is not None:
        return x, y, train_rows(y)
    # The shipped table knows its split: importing scikit-learn for it would take longer than all else.
    shipped = _shipped_table()
    parts = shipped.loc[shipped["center"] == SOURCES[center], "part"].dropna()
    return x, y, np.asarray(parts == "train", dtype=bool)


class HeartDiseaseRaw(TableDataset):
    """All usable rows of all four centers (740 of UCI's data), not standardised, without a choice of split.

    ``centers`` (n,) and ``sets`` (n,) of "train" and "test" say where each row belongs.
    """

    def __init__(
        self,
        *,
        data_path: str | Path | None = None,
        transform: Transform | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        parts = [_complete_rows(center, data_path) for center in range(NUM_CLIENTS)]
        self.centers = np.repeat(np.arange(NUM_CLIENTS), [len(y) for _, y, _ in parts])
        x, y, marks = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        self.sets = np.where(marks, "train", "test")
        super().__init__(x, y, transform=transform, dtype=dtype)


class FedHeartDisease(TableDataset):
    """One center, or all with ``pooled``; items are ((13,) features, (1,) target) of ``dtype``.

    Args:
        center: number or name; not looked at when pooled.
        train: the training part, else the test part.
        pooled: the four centers one after the other, each standardised with its own training part, so that the
            pooled test set is the clients' test sets, row for row.
        data_path: a folder with UCI's files (a center needs its own alone); None for the data of the package.
        transform: applied to the features at each access.
        flamby_compatible: pooled data are standardised with statistics of the pooled training part, as in FLamby,
            whose pooled model then meets client test sets on another scale.

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
        chosen = range(NUM_CLIENTS) if pooled else [center_index(center, CENTERS)]
        parts = [_complete_rows(number, data_path) for number in chosen]
        if flamby_compatible:
            reference = np.concatenate([x[marks] for x, _, marks in parts])
            scaled = [standardise(x, reference) for x, _, _ in parts]
        else:
            scaled = [standardise(x, x[marks]) for x, _, marks in parts]
        wanted = [marks if train else ~marks for _, _, marks in parts]
        super().__init__(
            np.concatenate([x[rows] for x, rows in zip(scaled, wanted, strict=True)]),
            np.concatenate([y[rows] for (_, y, _), rows in zip(parts, wanted, strict=True)]),
            transform=transform,
            dtype=dtype,
        )
