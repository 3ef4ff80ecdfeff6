"""The target of a table: numbers, or a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import DatasetError
from polyclinic.node.dataset_kinds.columns import Column, index_of

_MOST_CLASSES = 20  # an integer target with more distinct values than these is a quantity


@dataclass(frozen=True)
class Target:
    columns: tuple[Column, ...]
    values: NDArray[Any]  # (n, k) float32, or (n,) int64 for a class
    strata: NDArray[np.int64] | None  # (n,) the class of each row; None for a quantity
    classes: tuple[str, ...]
    description: str

    def keep(self, rows: NDArray[np.bool_]) -> Target:
        return replace(
            self,
            columns=tuple(column.keep(rows) for column in self.columns),
            values=self.values[rows],
            strata=self.strata[rows] if self.strata is not None else None,
        )

    def notes(self, train: NDArray[np.bool_]) -> list[str]:
        notes = []
        if self.strata is not None and len(np.unique(self.strata[train])) == 1:
            notes.append("The training rows hold one class only.")
        if self.classes:
            counts = np.bincount(self.values, minlength=len(self.classes))
            if absent := [name for name, n in zip(self.classes, counts, strict=True) if n == 0]:
                notes.append(f"No row has the class {', '.join(map(repr, absent))}.")
        return notes


def read_target(
    columns: Sequence[Column], classes: Sequence[str], *, may_be_missing: bool, may_be_one_class: bool
) -> Target:
    """The target of these columns.

    Numbers become float32 (n, k), one column each. Text becomes the index of its class among ``classes``, or
    among the sorted names that are there; so do numbers if ``classes`` are given.

    Raises:
        DatasetError: a target cell is missing, infinite, or outside the classes; text mixed with numbers;
            text in one of several targets; a target with one value only.
    """
    for column in columns:
        _check(column, may_be_missing=may_be_missing, may_be_one_class=may_be_one_class)
    if len(columns) == 1 and (classes or columns[0].is_word.any()):
        return _class_target(columns[0], classes)
    if words := [column.name for column in columns if column.is_word.any()]:
        raise DatasetError(
            f"the target column {words[0]!r} holds text, and there are {len(columns)} targets",
            to_do="several targets must all be numbers: name one target, or code the text as numbers",
        )
    if classes:
        raise DatasetError(
            f"--classes is given for {len(columns)} targets", to_do="name one target, or leave --classes out"
        )
    with np.errstate(over="ignore"):
        values = np.stack([column.number for column in columns], axis=1).astype(np.float32)
    described = [_describe(column) for column in columns]
    strata = None
    if len(columns) == 1 and _is_class_like(columns[0]):
        strata = np.unique(columns[0].number, return_inverse=True)[1].astype(np.int64)
    return Target(tuple(columns), values, strata, (), ", ".join(described))


def _class_target(column: Column, classes: Sequence[str]) -> Target:
    if not classes:
        if numbers := int((~column.missing & ~column.is_word).sum()):
            raise DatasetError(
                f"the target column {column.name!r} holds text in {int(column.is_word.sum())} rows "
                f"and numbers in {numbers}",
                to_do="correct these cells; if all are names of classes, declare them: --classes first,second,…",
            )
        classes = sorted(set(column.word[column.is_word]))
    index = index_of(column, classes, option="--classes")
    return Target((column,), index, index, tuple(classes), f"{column.name} ({len(classes)} classes)")


def _check(column: Column, *, may_be_missing: bool, may_be_one_class: bool) -> None:
    total = len(column.number)
    absent = int(column.missing.sum())
    if absent == total:
        raise DatasetError(f"the target column {column.name!r} is empty", to_do="check --target")
    if absent and not may_be_missing:
        raise DatasetError(
            f"the target column {column.name!r} has no value in {absent} of {total} rows",
            to_do="fill these cells in, or remove the rows; --missing drop leaves out every row with an empty cell",
        )
    if infinite := int((np.abs(column.number) > np.finfo(np.float32).max).sum()):
        raise DatasetError(
            f"the target column {column.name!r} holds values that are infinite or too large for 32 bits "
            f"in {infinite} of {total} rows",
            to_do="correct these cells",
        )
    if _num_distinct(column) == 1 and not may_be_one_class:
        raise DatasetError(
            f"the target column {column.name!r} has the same value in all {total - absent} rows",
            to_do="check that --target names the right column and that the export is complete; "
            "if this hospital has one class only, say so: --allow-one-class true",
        )


def _num_distinct(column: Column) -> int:
    return len(np.unique(column.number[~np.isnan(column.number)])) + len(set(column.word[column.is_word]))


def _is_class_like(column: Column) -> bool:
    values = column.number[~column.missing]
    return bool((values == np.round(values)).all()) and _num_distinct(column) <= _MOST_CLASSES


def _describe(column: Column) -> str:
    distinct = _num_distinct(column)
    kind = "distinct integer" if _is_class_like(column) else "distinct"
    return f"{column.name} (numeric, {distinct} {kind} value{'s' * (distinct != 1)})"
