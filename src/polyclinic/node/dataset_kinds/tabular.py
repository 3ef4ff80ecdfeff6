"""A table in a file: one row a sample, some columns features, one or more the target.

Every number that is taken from the data (the mean that fills a missing cell, the scale) comes from this
node's training rows alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.errors import DatasetError, nearest
from polyclinic.node.dataset_kinds.columns import Column, index_of, one_hot, parse_column, row_identities
from polyclinic.node.dataset_kinds.filling import fill_missing, standardise
from polyclinic.node.dataset_kinds.fingerprint import changed_files, fingerprint
from polyclinic.node.dataset_kinds.kind import Found
from polyclinic.node.dataset_kinds.params import AbsolutePath, KindParams, TestFraction, Words, WordsByName
from polyclinic.node.dataset_kinds.split import Split, split_notes, split_rows
from polyclinic.node.dataset_kinds.table import read_table
from polyclinic.node.dataset_kinds.target import Target, read_target

if TYPE_CHECKING:
    from torch.utils.data import Dataset


class TabularParams(KindParams):
    path: AbsolutePath  # .csv, .csv.gz, .tsv, .tsv.gz or .parquet
    target: Words
    features: Words = ()  # in this order; (): all columns that are neither target nor id
    categorical: WordsByName = {}  # column -> its categories, one-hot in this order
    classes: Words = ()  # the target's class names in the order of their index; (): sorted as found
    missing: Literal["mean", "median", "drop", "error"] = "mean"
    scale: Literal["none", "standard"] = "none"
    test_fraction: TestFraction = 0.2  # approximate, see split.py
    seed: int = 0  # of the split
    id_column: str | None = None  # whose row it is; a patient's rows stay together
    stratify: bool = True  # every class on both sides, where it has two rows
    allow_one_class: bool = False


@dataclass(frozen=True)
class _Table:
    """The table, ready for training."""

    x: NDArray[np.float32]  # (n, num_features)
    y: NDArray[Any]  # (n, k) float32, or (n,) int64 for a class
    test: NDArray[np.bool_]  # (n,)
    features: tuple[str, ...]
    target: Target
    missing: dict[str, int]
    notes: tuple[str, ...]


class Tabular:
    """CSV, TSV or Parquet. x: float32 (num_features,). y: float32 (k,), or the class's index, int64 ()."""

    name: ClassVar[str] = "tabular"
    Params: type[TabularParams] = TabularParams

    def inspect(self, params: TabularParams) -> Found:
        table = _prepare(params)
        return Found(
            num_train=int((~table.test).sum()),
            num_test=int(table.test.sum()),
            features=table.features,
            shape=(len(table.features),),
            target=table.target.description,
            classes=table.target.classes,
            missing=table.missing,
            notes=table.notes,
            fingerprint=fingerprint(params.path.parent, [params.path]),
        )

    def load(self, params: TabularParams, *, train: bool) -> Dataset[Any]:
        import torch
        from torch.utils.data import TensorDataset

        table = _prepare(params)
        rows = ~table.test if train else table.test
        return TensorDataset(torch.from_numpy(table.x[rows]), torch.from_numpy(table.y[rows]))

    def paths(self, params: TabularParams) -> tuple[Path, ...]:
        return (params.path,)

    def changed(self, params: TabularParams, fingerprint: str, *, glance: bool = False) -> str | None:  # noqa: ARG002
        return changed_files(params.path.parent, [params.path], fingerprint)

    def module(self, params: TabularParams) -> ModuleType | None:  # noqa: ARG002
        return None


def _prepare(params: TabularParams) -> _Table:
    frame = read_table(params.path)
    names = _feature_names(params, list(frame.columns))
    target = read_target(
        [parse_column(name, frame[name], params.classes) for name in params.target],
        params.classes,
        may_be_missing=params.missing == "drop",
        may_be_one_class=params.allow_one_class,
    )
    columns = [parse_column(name, frame[name], params.categorical.get(name, ())) for name in names]
    missing = {c.name: int(c.missing.sum()) for c in (*columns, *target.columns) if c.missing.any()}
    notes: list[str] = []
    owners = _owners(frame, params.id_column)

    if params.missing == "drop" and missing:
        keep = ~np.any([c.missing for c in (*columns, *target.columns)], axis=0)
        notes.append(f"{(~keep).sum()} of {len(keep)} rows have a missing cell and were left out.")
        if keep.sum() < 2:
            raise DatasetError(
                f"{keep.sum()} of {len(keep)} rows have no missing cell",
                to_do="fill cells instead (--missing mean), or leave out columns with --features",
            )
        columns, target = [c.keep(keep) for c in columns], target.keep(keep)
        owners = owners[keep] if owners is not None else None

    split = _split(params, columns, target, owners)
    names_hot, x = _matrix(columns, params)
    x, fill_notes = fill_missing(x, names_hot, ~split.test, missing, rule=params.missing)
    notes += fill_notes
    if params.scale == "standard":
        x, scale_notes = standardise(x, names_hot, ~split.test)
        notes += scale_notes
    notes += [*split_notes(split, params.test_fraction), *target.notes(~split.test)]
    return _Table(
        x=_as_float32(x, names_hot),
        y=target.values,
        test=split.test,
        features=names_hot,
        target=target,
        missing=missing,
        notes=tuple(notes),
    )


def _feature_names(params: TabularParams, there: list[str]) -> list[str]:
    """The feature columns; checks every column that the settings name."""
    named = [("--target", params.target), ("--features", params.features)]
    named += [("--categorical", tuple(params.categorical))]
    named += [("--id-column", (params.id_column,) if params.id_column is not None else ())]
    for option, columns in named:
        for column in columns:
            if column not in there:
                raise DatasetError(
                    f"{params.path.name} has no column {column!r}, which {option} names",
                    to_do=nearest(column, there),
                )
            if columns.count(column) > 1:
                raise DatasetError(f"{option} names column {column!r} twice", to_do="name it once")
    if not params.target:
        raise DatasetError("no target column is named", to_do=f"give --target; {nearest('', there)}")
    apart = {*params.target, params.id_column}
    if both := sorted(apart & set(params.features) - {None}, key=str):
        raise DatasetError(f"column {both[0]!r} is a feature and also target or id", to_do="name it once")
    if params.id_column in params.target:
        raise DatasetError(f"column {params.id_column!r} is target and id", to_do="name it once")
    names = list(params.features) or [name for name in there if name not in apart]
    if not names:
        raise DatasetError("no column is left for a feature", to_do="check --target and --id-column")
    if odd := sorted(set(params.categorical) - set(names)):
        raise DatasetError(
            f"--categorical names column {odd[0]!r}, which is not a feature",
            to_do="for a target use --classes; else add the column to --features",
        )
    return names


def _owners(frame: pd.DataFrame, id_column: str | None) -> NDArray[np.object_] | None:
    """(n,) whose row it is, as text, or None without an id column."""
    if id_column is None:
        return None
    column = parse_column(id_column, frame[id_column])
    if absent := int(column.missing.sum()):
        raise DatasetError(
            f"the id column {id_column!r} is empty in {absent} of {len(frame)} rows",
            to_do="give every row an id, or leave --id-column out: rows are then known by their content",
        )
    return np.array([str(cell) for cell in frame[id_column]], dtype=object)


def _split(params: TabularParams, columns: list[Column], target: Target, owners: NDArray[np.object_] | None) -> Split:
    if owners is None:
        identities = row_identities([*columns, *target.columns])
    else:
        identities = [str(owner).encode() for owner in owners]
        if len(set(identities)) < 2:
            raise DatasetError(
                f"all {len(identities)} rows have the same id in column {params.id_column!r}",
                to_do="a patient's rows stay on one side of the split: give at least two patients",
            )
    return split_rows(
        identities,
        test_fraction=params.test_fraction,
        seed=params.seed,
        strata=target.strata if params.stratify else None,
    )


def _matrix(columns: list[Column], params: TabularParams) -> tuple[tuple[str, ...], NDArray[np.float64]]:
    """The features' names after one-hot and their values (n, num_features), nan where a cell is missing."""
    names: list[str] = []
    parts: list[NDArray[np.float64]] = []
    texts: dict[str, int] = {}
    for column in columns:
        if categories := params.categorical.get(column.name):
            index = index_of(column, categories, option=f"--categorical {column.name}=…")
            names += [f"{column.name}={category}" for category in categories]
            parts.append(one_hot(index, len(categories)))
            continue
        names.append(column.name)
        parts.append(column.number[:, None])
        if column.is_word.any():
            texts[column.name] = int(column.is_word.sum())
        if infinite := int(np.isinf(column.number).sum()):
            raise DatasetError(
                f"column {column.name!r} holds infinite values in {infinite} of {len(column.number)} rows",
                to_do="correct these cells, or leave them empty",
            )
    if texts:
        first = next(iter(texts))
        listed = ", ".join(f"{name!r} (in {count} rows)" for name, count in texts.items())
        raise DatasetError(
            f"text where numbers are expected, in column {listed}",
            to_do=f"if {first!r} holds categories, declare them: --categorical {first}=first,second,…; "
            "if it is no feature, leave it out: --features names those to take; else correct the cells",
        )
    return tuple(names), np.concatenate(parts, axis=1)


def _as_float32(x: NDArray[np.float64], names: tuple[str, ...]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        small = x.astype(np.float32)
    if bad := [(name, int(n)) for name, n in zip(names, (~np.isfinite(small)).sum(axis=0), strict=True) if n]:
        raise DatasetError(
            f"column {bad[0][0]!r} holds values too large for 32 bits in {bad[0][1]} of {len(x)} rows",
            to_do="correct these cells, or use another unit",
        )
    return small
