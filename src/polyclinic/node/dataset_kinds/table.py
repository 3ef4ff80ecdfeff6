"""A table in a file: read as it stands, with its header checked."""

from __future__ import annotations

import zlib
from collections import Counter
from pathlib import Path

import pandas as pd

from polyclinic.errors import DatasetError

# What people and programs write into a cell that has no value: pandas' own list, and the "?" of old archives.
_ARCHIVES = frozenset({"", "?", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>"})
_SPREADSHEETS = frozenset({"#N/A", "#N/A N/A", "#NA", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"})
MISSING = _ARCHIVES | _SPREADSHEETS

SEPARATORS = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}


def read_table(path: Path) -> pd.DataFrame:
    """The table at ``path``, by its suffix: .csv, .csv.gz, .tsv, .tsv.gz or .parquet.

    Cells of text files stay text (stripped), so that a column's type never depends on what other rows hold.

    Raises:
        DatasetError: no such file, not a table, empty, only a header, or a header that names no columns.
    """
    if not path.is_file():
        raise DatasetError(f"there is no file {path}", to_do="check --path")
    name = path.name.lower()
    if name.endswith(".parquet"):
        frame = _read_parquet(path)
    elif suffix := next((s for s in SEPARATORS if name.endswith(s)), None):
        frame = _read_text(path, SEPARATORS[suffix])
    else:
        raise DatasetError(
            f"{path.name} has a suffix that is not known for a table",
            to_do=f"save it as one of {', '.join([*SEPARATORS, '.parquet'])}",
        )
    if frame.empty:
        raise DatasetError(f"{path.name} has a header but no rows", to_do="check that the export is complete")
    if len(frame) < 2:
        raise DatasetError(f"{path.name} has one row only", to_do="give at least two rows, to train and to test")
    return frame


def _unreadable(path: Path, err: Exception) -> DatasetError:
    # Only the kind of error: a parser's own text may quote the cells it fell over.
    return DatasetError(
        f"{path.name} cannot be read as a table ({type(err).__name__})",
        to_do="save it again as UTF-8 text with as many cells in every row as in the header, or as Parquet",
    )


def _read_parquet(path: Path) -> pd.DataFrame:
    if path.stat().st_size == 0:
        raise DatasetError(f"{path.name} is empty", to_do="check that the export is complete")
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise DatasetError(
            "reading Parquet needs pyarrow", to_do="pip install 'polyclinic[parquet]', or save the table as CSV"
        ) from None
    except (OSError, ValueError) as err:
        raise _unreadable(path, err) from None
    frame.columns = pd.Index(_check_header(path, [str(name) for name in frame.columns]))
    return frame.reset_index(drop=True)


def _read_text(path: Path, separator: str) -> pd.DataFrame:
    try:
        # The header is read as a row like any other: pandas would rename columns that have the same name, and
        # would take a first column without a name for an index.
        cells = pd.read_csv(path, sep=separator, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except pd.errors.EmptyDataError:
        raise DatasetError(f"{path.name} is empty", to_do="check that the export is complete") from None
    except (OSError, EOFError, zlib.error, ValueError) as err:
        raise _unreadable(path, err) from None
    names = _check_header(path, ["" if pd.isna(name) else str(name).strip() for name in cells.iloc[0]])
    if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
        raise DatasetError(
            f"{path.name} has one column only, whose name holds semicolons or tabs",
            to_do="save it with commas between the columns and points in the numbers; with tabs, as .tsv",
        )
    frame = cells.iloc[1:].reset_index(drop=True)
    frame.columns = pd.Index(names)
    return pd.DataFrame({name: frame[name].str.strip() for name in names})


def _check_header(path: Path, names: list[str]) -> list[str]:
    if names and all(_is_value(name) for name in names):
        # The names are not quoted: they are a patient's values.
        raise DatasetError(
            f"the first row of {path.name} holds values, not the names of columns",
            to_do="put a row with the columns' names at the top",
        )
    if unnamed := [i for i, name in enumerate(names, 1) if not name]:
        raise DatasetError(
            f"column {unnamed[0]} of {path.name} has no name",
            to_do="name it, or leave it out (pandas: index=False, R: row.names=FALSE)",
        )
    if doubled := sorted(name for name, count in Counter(names).items() if count > 1):
        raise DatasetError(
            f"{path.name} has more than one column of the name {', '.join(map(repr, doubled))}",
            to_do="rename or remove one of them",
        )
    return names


def _is_value(name: str) -> bool:
    if name in MISSING:
        return True
    try:
        float(name)
    except ValueError:
        return False
    return True
