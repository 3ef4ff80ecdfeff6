"""Columns of a table as numbers, words and missing cells; one-hot by declared categories; rows by their content."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from polyclinic.errors import ConfigError, DatasetError
from polyclinic.node.dataset_kinds.table import MISSING


@dataclass(frozen=True)
class Column:
    """Each cell is missing, or a number, or a word; what it is depends on that cell alone."""

    name: str
    number: NDArray[np.float64]  # (n,) nan where the cell is missing or a word
    word: NDArray[np.object_]  # (n,) "" where the cell is missing or a number
    missing: NDArray[np.bool_]  # (n,)

    @property
    def is_word(self) -> NDArray[np.bool_]:
        return ~self.missing & np.isnan(self.number)

    def keep(self, rows: NDArray[np.bool_]) -> Column:
        return Column(self.name, self.number[rows], self.word[rows], self.missing[rows])


def parse_column(name: str, cells: pd.Series, known: Sequence[str] = ()) -> Column:
    """Sorts a column's cells. True and false, in any case, are the numbers 1 and 0.

    Args:
        known: words that are values even if they look like a missing cell, as "None" for no alcohol.
    """
    no_word = np.full(len(cells), "", dtype=object)
    if pd.api.types.is_numeric_dtype(cells):
        number = cells.to_numpy(dtype=np.float64, na_value=np.nan)
        return Column(name, number, no_word, np.isnan(number))
    values = cells.astype(object)
    number = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    missing, word = np.zeros(len(cells), dtype=bool), no_word
    absent, plain = cells.isna().to_numpy(dtype=bool), values.to_numpy()
    # Most cells of most columns are numbers; only the others are looked at one by one.
    for i in np.flatnonzero(np.isnan(number)).tolist():
        text = "" if absent[i] else str(plain[i])
        if text in MISSING and text not in known:
            missing[i] = True
        elif text.lower() in ("true", "false"):
            number[i] = float(text.lower() == "true")
        else:
            word[i] = text
    return Column(name, number, word, missing)


def index_of(column: Column, categories: Sequence[str], *, option: str) -> NDArray[np.int64]:
    """(n,) the place of each cell among ``categories``, -1 where the cell is missing.

    A category that is a number stands for every way to write it: "4" also for "4.0".

    Raises:
        ConfigError: two categories are the same.
        DatasetError: a cell holds something else; says in how many rows.
    """
    wanted = parse_column(column.name, pd.Series(list(categories), dtype=object), known=categories)
    keys = [w or n for w, n in zip(wanted.word, wanted.number, strict=True)]
    if len(set(keys)) < len(keys):
        raise ConfigError(f"a category of column {column.name!r} is declared twice", to_do=f"correct {option}")
    index = np.full(len(column.number), -1, dtype=np.int64)
    for place, (word, number) in enumerate(zip(wanted.word, wanted.number, strict=True)):
        index[(column.word == word) if word else (column.number == number)] = place
    if outside := int(((index < 0) & ~column.missing).sum()):
        raise DatasetError(
            f"column {column.name!r} holds something outside its declared categories in {outside} of {len(index)} rows",
            to_do=f"add the category to {option}, or correct these cells",
        )
    return index


def one_hot(index: NDArray[np.int64], num_categories: int) -> NDArray[np.float64]:
    """(n, num_categories): 1 at the row's category, else 0; nan in the whole row where the index is -1."""
    hot = np.eye(num_categories, dtype=np.float64)[index]
    hot[index < 0] = np.nan
    return hot


def row_identities(columns: Sequence[Column]) -> list[bytes]:
    """(n,) what a row holds, and which one it is among equal rows; the order of the columns does not matter."""
    columns = sorted(columns, key=lambda column: column.name)
    numbers = np.stack([column.number for column in columns], axis=1).astype("<f8") + 0.0  # -0.0 becomes 0.0
    numbers[np.isnan(numbers)] = np.nan  # one bit pattern
    with_words = [column for column in columns if column.is_word.any()]
    seen: Counter[bytes] = Counter()
    identities = []
    for i in range(len(numbers)):
        words = "".join(f"{c.name}\x1f{c.word[i]}\x1e" for c in with_words if c.word[i])
        content = numbers[i].tobytes() + words.encode()
        identities.append(content + b"\0%d" % seen[content])
        seen[content] += 1
    return identities
