"""Looks at a node's journal from the first row to the last: whether it is as it was written, and all of it there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select

from polyclinic.node.database import make_tables
from polyclinic.node.journal import BEGINNING, Head, JournalRow, digest_of, line
from polyclinic.node.journal_facts import KINDS, signed_text

# Whether the holder of a public key signed these bytes so.
IsSigned = Callable[[str, bytes, bytes], bool]

_PAGE = 20_000  # rows read at once
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", re.ASCII)


@dataclass(frozen=True)
class Row:
    """A row as it stands in the database."""

    number: int
    time: str
    kind: str
    facts_text: str
    previous: str
    digest: str

    @property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.facts_text)
        return found

    @property
    def line(self) -> str:
        return line(self.number, self.time, self.kind, self.facts_text, self.previous)


@dataclass(frozen=True)
class Verdict:
    """What was found.

    Args:
        rows: that were looked at, up to the first that is not good.
        signatures: how many there are.
        signed: the number of the last row that a signature stands for; 0: none.
        signed_at: when; UTC.
        key: the public key that the node signs with; "" if none was written down.
        row: the number of the first row that is not good; None: all are.
        problem: what is wrong with it; a sentence.
    """

    rows: int
    signatures: int = 0
    signed: int = 0
    signed_at: str = ""
    key: str = ""
    row: int | None = None
    problem: str = ""


def read(engine: Engine, *, kind: str | None = None, since: str = "") -> Iterator[Row]:
    """The rows, the first one first.

    Args:
        kind: only rows of this kind.
        since: only rows that were written then or later, UTC as in ``2026-11-24T12:00``.
    """
    make_tables(engine, JournalRow)
    columns = (JournalRow.number, JournalRow.time, JournalRow.kind, JournalRow.facts, JournalRow.previous)
    chosen = select(*columns, JournalRow.digest).order_by(JournalRow.number).limit(_PAGE)
    if kind is not None:
        chosen = chosen.where(JournalRow.kind == kind)
    if since:
        chosen = chosen.where(JournalRow.time >= since)
    last = 0
    while True:
        with engine.connect() as connection:  # not held while the reader does something else
            rows = connection.execute(chosen.where(JournalRow.number > last)).all()
        if not rows:
            return
        for row in rows:
            yield Row(*row)
        last = rows[-1].number


def verify(engine: Engine, *, folder: Path | None = None, is_signed: IsSigned | None = None, key: str = "") -> Verdict:
    """Looks at all rows.

    Args:
        folder: the node's own, where the head is noted outside of the database.
        is_signed: checks a signature; None: signatures are counted, and not checked.
        key: the public key that the last signature has to be by; "": the one that was written down last.

    Raises:
        NodeError: the database cannot be read.
    """
    # Read before the rows: what is noted is never ahead of what is in the database.
    noted = None if folder is None else Head.noted(folder)
    check = _Check(is_signed)
    for row in read(engine):
        if problem := check.row(row, noted):
            return check.verdict(check.at_fault, problem)
    if noted is not None and noted.number > check.number:
        problem = f"it was there, and is missing; {noted.number - check.number} rows were cut off the end"
        return check.verdict(check.number + 1, problem)
    if key and check.key != key:
        told = check.key or "no key"
        return check.verdict(check.number, f"the journal is by another key: it names {told}, not {key}")
    return check.verdict(None, "")


class _Check:
    """What is known of the rows that came."""

    def __init__(self, is_signed: IsSigned | None) -> None:
        self._is_signed = is_signed
        self.number, self._digest, self.key = 0, BEGINNING, ""
        self._signatures, self._signed, self._signed_at = 0, 0, ""
        self.at_fault = 0

    def row(self, row: Row, noted: Head | None) -> str:
        """Takes the next row; says what is wrong with it, or nothing."""
        self.at_fault = row.number
        problem = self._chained(row)
        if not problem and noted is not None and noted.number == row.number and noted.digest != row.digest:
            problem = "it is another one than was noted beside the database; this row and those after it are replaced"
        if not problem and row.kind in ("key", "signature", "gap"):
            problem = self._special(row)
        if not problem:
            self.number, self._digest = row.number, row.digest
        return problem

    def _chained(self, row: Row) -> str:
        if row.number != self.number + 1:
            return f"it follows row {self.number}: {row.number - self.number - 1} rows between them are missing"
        # Looked at before the hash: it is over a text, and these two must be where they are in it.
        if row.kind not in KINDS or not _TIME.fullmatch(row.time):
            return "it is no row of a journal: its time or kind was changed"
        if digest_of(row.line) != row.digest:
            return "it is not as it was written: its content or place was changed"
        if row.previous != self._digest:
            self.at_fault = max(self.number, 1)
            return f"it is not the one after which row {row.number} was written: one of the two was replaced"
        return ""

    def _special(self, row: Row) -> str:
        facts = row.facts
        if row.kind == "key":
            self.key = facts["key"]
            return ""
        if row.kind == "gap":
            return f"it says that the journal had been cut or replaced: row {facts['number']} was there before"
        self._signatures += 1
        signature, text = bytes.fromhex(facts["signature"]), signed_text(facts["number"], facts["digest"], facts["at"])
        if (facts["number"], facts["digest"]) != (self.number, self._digest):
            return "its signature stands for other rows than those before it"
        if self._is_signed is not None and not (self.key and self._is_signed(self.key, text, signature)):
            return f"its signature is not by the node's key {self.key or '(none was written down)'}"
        self._signed, self._signed_at = facts["number"], facts["at"]
        return ""

    def verdict(self, row: int | None, problem: str) -> Verdict:
        return Verdict(
            rows=self.number,
            signatures=self._signatures,
            signed=self._signed,
            signed_at=self._signed_at,
            key=self.key,
            row=row,
            problem=problem,
        )
