"""The results file: one tidy CSV, a row for each figure, appended to cell by cell.

A cell is one method with one seed on one dataset. Its rows are written at once, and each says how many there are, so
a cell whose writing was interrupted is known and run again. Damaged lines are left out with a warning and stay in
the file.

====================  ==================================================================================
``protocol``          "flamby" or "polyclinic"
``dataset``           "fed_heart_disease", …
``method``            "Pooled", "Local <center>", or the name of a strategy
``settings``          the strategy's hyper-parameters, JSON
``seed``
``test``              whose test data: a center's name, "mean" (over centers) or "pooled"; "" if the cell failed
``round``             after which round; where a cell failed: in which one
``final``             whether this is the method's result; others are points of its curve
``metric``            its name
``value``             NaN if the cell failed
``num_samples``       in this test set
``status``            "done", "diverged" or "failed"
``detail``            why, if not done
``seconds``           of the whole cell
``training_seconds``  of them: in local training at the nodes
``bytes``             sent to and from all nodes until this round
``peak_memory``       bytes, of the process that ran the cell
``configuration``     everything that decides the result, JSON
``versions``          of Python and packages, JSON
``cell``              the digest of protocol, dataset, method, seed and configuration
``rows``              how many rows this cell has
``finished``          when, UTC
====================  ==================================================================================
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from filelock import FileLock
from pydantic import AfterValidator, BaseModel, ConfigDict

from polyclinic.errors import ConfigError

if TYPE_CHECKING:
    import pandas as pd

Status = Literal["done", "diverged", "failed"]
# A row is a line, so that a damaged one harms no other: no text of it has a line break.
Text = Annotated[str, AfterValidator(lambda text: re.sub(r"[\r\n]+", " ", text))]
MEAN = "mean"
POOLED = "pooled"


class ResultRow(BaseModel):
    """One figure; the fields are the file's columns, in this order."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    protocol: Text
    dataset: Text
    method: Text
    settings: Text
    seed: int
    test: Text
    round: int
    final: bool
    metric: Text
    value: float
    num_samples: int
    status: Status
    detail: Text
    seconds: float
    training_seconds: float
    bytes: int
    peak_memory: int
    configuration: Text
    versions: Text
    cell: Text
    rows: int
    finished: Text


COLUMNS = tuple(ResultRow.model_fields)
_HEADER = ",".join(COLUMNS)


def cell_id(what: Mapping[str, Any]) -> str:
    """A digest of everything that decides a cell's result."""
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:16]


class ResultsFile:
    """The CSV file of one protocol. Several programs may append to it at the same time.

    Args:
        path: made at the first `append`.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def read(self) -> list[ResultRow]:
        """The rows of all complete cells, in the file's order; a cell that was run twice counts once, the last.

        Raises:
            ConfigError: there is a file, but no results file: neither its first line nor any other is as it should be.
        """
        cells: dict[str, list[ResultRow]] = defaultdict(list)
        damaged = 0
        lines = self.path.read_bytes().decode("utf-8-sig", errors="replace").split("\n") if self.path.exists() else [""]
        # The header may have been cut off by a crash.
        is_ours = _HEADER.startswith(lines[0].rstrip("\r"))
        for line in lines[is_ours:]:
            if not line.strip():
                continue
            row = _parse(line)
            if row is None:
                damaged += 1
                continue
            if len(cells[row.cell]) >= row.rows or (cells[row.cell] and cells[row.cell][0].finished != row.finished):
                cells[row.cell] = []
            cells[row.cell].append(row)
        if damaged and not cells and not is_ours:
            raise ConfigError(
                f"{self.path} is no results file: its first line is not {_HEADER[:30]}…, and no line is a result",
                to_do="give the file that `polyclinic benchmark run` wrote",
            )
        if damaged:
            warnings.warn(f"{self.path}: {damaged} damaged lines are left out, all others are used", stacklevel=2)
        return [row for rows in cells.values() if len(rows) == rows[0].rows for row in rows]

    def done(self) -> set[str]:
        """The ids of the cells that need not be run again: done or diverged, which would diverge again."""
        return {row.cell for row in self.read() if row.status != "failed"}

    def require_protocol(self, protocol: str) -> None:
        """Raises ConfigError if the file holds rows of another protocol."""
        if others := {row.protocol for row in self.read()} - {protocol}:
            raise ConfigError(
                f"{self.path} holds results of protocol {', '.join(sorted(others))!r}, not {protocol!r}",
                to_do="give another results file: figures of two protocols must not be mixed",
            )

    def append(self, rows: Sequence[ResultRow]) -> int:
        """Adds one cell's rows, durably and at once; returns by how many bytes the file grew."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(self.path.name + ".lock")):
            if not self.path.exists() or not self.path.stat().st_size:
                writer.writerow(COLUMNS)
            elif not _ends_a_line(self.path):
                text.write("\n")  # a line that a crash cut off must not swallow ours
            writer.writerows([[getattr(row, name) for name in COLUMNS] for row in rows])
            with self.path.open("ab") as file:
                written = file.write(text.getvalue().encode(errors="backslashreplace"))
                file.flush()
                os.fsync(file.fileno())
        return written

    def to_pandas(self) -> pd.DataFrame:
        """The rows of all complete cells as a table with the file's columns."""
        import pandas as pd

        return pd.DataFrame([row.model_dump() for row in self.read()], columns=list(COLUMNS))


def _parse(line: str) -> ResultRow | None:
    try:
        fields = next(csv.reader([line], strict=True))
        return ResultRow.model_validate_strings(dict(zip(COLUMNS, fields, strict=True)))
    except (csv.Error, ValueError):
        return None


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
