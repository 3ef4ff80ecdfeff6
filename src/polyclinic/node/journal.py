"""The journal of a node: what was asked, decided and done, in a table that is only ever added to.

Each row holds the hash of the row before it, so that no row can be changed, taken out, put in or moved without all
later ones being wrong; once a day the node's key signs the last hash. `journal_check.py` looks at all of it.

A row's *line* is the JSON text

::

    {"number":7,"time":"2026-11-24T12:18:32.123456Z","kind":"…","facts":{…},"previous":"<hash of row 6>"}

in ASCII and without blanks, the facts sorted by name, and its hash is the SHA-256 of exactly these bytes. The first
row's ``previous`` is 64 zeros.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Connection, Engine, Text, insert, select
from sqlalchemy.orm import Mapped, mapped_column

from polyclinic.node.database import Base, make_tables
from polyclinic.node.journal_facts import KINDS, signed_text

HEAD = "journal.head"
BEGINNING = "0" * 64

# A first fence, against mistakes: who owns the database can take it down, and then the hashes tell.
_REFUSAL = "the journal is only ever added to"
_SQLITE_FENCE = [
    f"CREATE TRIGGER IF NOT EXISTS journal_no_{what.lower()} BEFORE {what} ON journal "
    f"BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
    for what in ("UPDATE", "DELETE")
]
_POSTGRESQL_FENCE = [
    "CREATE OR REPLACE FUNCTION journal_refuses() RETURNS trigger LANGUAGE plpgsql AS "
    f"$$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
    "CREATE TRIGGER journal_fence BEFORE UPDATE OR DELETE OR TRUNCATE ON journal "
    "FOR EACH STATEMENT EXECUTE FUNCTION journal_refuses()",
]


class JournalRow(Base):
    """One row. ``facts`` is JSON as it stands in the row's line; ``digest`` the row's hash."""

    __tablename__ = "journal"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    time: Mapped[str]
    kind: Mapped[str]
    facts: Mapped[str] = mapped_column(Text)
    previous: Mapped[str]
    digest: Mapped[str]


_table = Base.metadata.tables[JournalRow.__tablename__]
_LAST = select(_table.c.number, _table.c.digest).order_by(_table.c.number.desc()).limit(1)


@dataclass(frozen=True)
class Head:
    """The last row's number and hash; 0 and `BEGINNING` of an empty journal."""

    number: int = 0
    digest: str = BEGINNING

    @classmethod
    def noted(cls, folder: Path) -> Head | None:
        """The one that is noted in a node's folder; None: there is none that can be read."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads((folder / HEAD).read_text(encoding="utf-8"))
            return cls(int(content["number"]), str(content["digest"]))
        return None

    def note(self, folder: Path) -> None:
        """Notes it in a node's folder, at once or not at all. A power cut may take the newest note, or another program
        note an older one after it; an older one is as true, and the rows themselves are safe."""
        partial = folder / f"{HEAD}.{os.getpid()}"
        partial.write_text(json.dumps({"number": self.number, "digest": self.digest}) + "\n", encoding="utf-8")
        partial.replace(folder / HEAD)


class Journal:
    """The journal of one node. Other programs may write to the same one at the same time.

    Args:
        engine: of the node's database.
        signer: signs with the node's key; None: the node has not joined a hub, and rows stay unsigned.
        folder: the node's own, where the head is noted outside of the database; None: it is not noted.
    """

    def __init__(
        self, engine: Engine, signer: Callable[[bytes], bytes] | None = None, *, folder: Path | None = None
    ) -> None:
        self._engine = engine
        self._signer = signer
        self._folder = folder
        self._buffer: list[tuple[str, str, str]] = []
        self._lock = threading.RLock()
        self._signed_on = ""  # the day, once the database was asked
        make_tables(engine, JournalRow)
        _put_up_fence(engine)

    def write(self, kind: str, **facts: Any) -> None:
        """Notes a row; `flush` makes it last. May be called from any thread.

        Args:
            facts: as `journal_facts` has them for this kind.

        Raises:
            TypeError: for an unknown kind, or facts that it does not have. What was given is not shown.
        """
        if kind not in KINDS:
            raise TypeError(f"the journal has no rows of kind {kind!r}; known: {', '.join(KINDS)}")
        try:
            row = KINDS[kind].model_validate(facts)
        except ValidationError as err:
            wrong = ", ".join(".".join(map(str, part["loc"])) + ": " + part["type"] for part in err.errors())
            raise TypeError(f"facts that rows of kind {kind!r} do not have so: {wrong}") from None
        with self._lock:
            self._buffer.append((_now(), kind, _json(row.model_dump(mode="json"))))

    def flush(self, *also: Callable[[Connection], object]) -> None:
        """Writes all that was noted, in one transaction that outlasts a power cut; signs if today nothing was signed.

        Args:
            also: what else is written in this transaction.

        Raises:
            NodeError: the disk is full, or the database cannot be reached. Nothing is lost: the next flush tries again.
        """
        self._flush(also, sign=False)

    def sign(self) -> bool:
        """Writes what was noted, and has the node's key stand for all of it; False: there is no key.

        The key must have been written down before (`note_key`).

        Raises:
            NodeError: as `flush`.
        """
        self._flush((), sign=True)
        return self._signer is not None

    def note_key(self, public_key: str, *, hub: str = "", by: str = "") -> None:
        """Writes down that this is the node's key, if it is not the one that was written down last.

        Raises:
            NodeError: as `flush`.
        """
        with self._engine.connect() as connection:
            chosen = select(_table.c.facts).where(_table.c.kind == "key").order_by(_table.c.number.desc()).limit(1)
            last = connection.scalar(chosen)
        if last is None or json.loads(last)["key"] != public_key:
            self.write("key", key=public_key, hub=hub, by=by)
            self.flush()

    # ---- parts

    def _flush(self, also: Sequence[Callable[[Connection], object]], *, sign: bool) -> None:
        with self._lock:
            due = self._signer is not None and (sign or self._signed_on != _now()[:10])
            if not self._buffer and not due and not also:
                return
            # Read before the transaction begins: what is noted is never ahead of what is in the database.
            noted = None if self._folder is None else Head.noted(self._folder)
            with _alone(self._engine) as connection:
                head = before = _head(connection)
                rows: list[dict[str, Any]] = []
                for time, kind, facts in [*_gap(connection, head, noted), *self._buffer]:
                    head = _add(rows, head, time, kind, facts)
                is_signed = due and self._is_signed_today(connection)
                if due and (sign or not is_signed):
                    head = self._add_signature(connection, rows, head)
                if rows:
                    connection.execute(insert(_table), rows)
                for write in also:
                    write(connection)
            self._buffer.clear()
            if due and (is_signed or (rows and rows[-1]["kind"] == "signature")):
                self._signed_on = _now()[:10]
            if self._folder is not None and head != before:
                head.note(self._folder)

    def _is_signed_today(self, connection: Connection) -> bool:
        of_signatures = select(_table.c.time).where(_table.c.kind == "signature")
        last = connection.scalar(of_signatures.order_by(_table.c.number.desc()).limit(1))
        return last is not None and last[:10] == _now()[:10]

    def _add_signature(self, connection: Connection, rows: list[dict[str, Any]], head: Head) -> Head:
        assert self._signer is not None
        last = select(_table.c.kind).where(_table.c.number == head.number)
        kind = rows[-1]["kind"] if rows else connection.scalar(last)
        # Nothing new to sign, or nobody could tell whose signature it is.
        if kind in ("signature", None) or not _names_a_key(connection, rows):
            return head
        at = _now()
        signature = self._signer(signed_text(head.number, head.digest, at)).hex()
        facts = {"number": head.number, "digest": head.digest, "at": at, "signature": signature}
        return _add(rows, head, at, "signature", _json(facts))


def login() -> str:
    """Who works at this machine, for ``by``."""
    with suppress(Exception):  # there may be no name for the user's number
        return getpass.getuser()
    return f"user {os.getuid()}" if hasattr(os, "getuid") else ""


def line(number: int, time: str, kind: str, facts: str, previous: str) -> str:
    """A row's line, without the end of the line."""
    return f'{{"number":{number},"time":"{time}","kind":"{kind}","facts":{facts},"previous":"{previous}"}}'


def digest_of(text: str) -> str:
    """The hash of a line."""
    return hashlib.sha256(text.encode()).hexdigest()


def _names_a_key(connection: Connection, rows: list[dict[str, Any]]) -> bool:
    there = select(_table.c.number).where(_table.c.kind == "key").limit(1)
    return any(row["kind"] == "key" for row in rows) or connection.scalar(there) is not None


def _add(rows: list[dict[str, Any]], head: Head, time: str, kind: str, facts: str) -> Head:
    number = head.number + 1
    digest = digest_of(line(number, time, kind, facts, head.digest))
    rows.append(
        {"number": number, "time": time, "kind": kind, "facts": facts, "previous": head.digest, "digest": digest}
    )
    return Head(number, digest)


def _gap(connection: Connection, head: Head, noted: Head | None) -> Iterator[tuple[str, str, str]]:
    """A row that says so, if the head that was noted beside the database is not in it any more."""
    if noted is None or noted.number == 0 or noted == head:
        return
    there = connection.scalar(select(_table.c.digest).where(_table.c.number == noted.number))
    if there != noted.digest:
        yield _now(), "gap", _json({"number": noted.number, "digest": noted.digest})


def _head(connection: Connection) -> Head:
    last = connection.execute(_LAST).first()
    return Head() if last is None else Head(last.number, last.digest)


@contextmanager
def _alone(engine: Engine) -> Iterator[Connection]:
    """A transaction in which no other program adds rows, so that the chain stays one."""
    if engine.dialect.name != "sqlite":
        with engine.begin() as connection:
            connection.exec_driver_sql("LOCK TABLE journal IN EXCLUSIVE MODE")
            yield connection
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.exec_driver_sql("COMMIT")
        except BaseException:
            with suppress(Exception):  # some errors have ended the transaction already
                connection.exec_driver_sql("ROLLBACK")
            raise


def _put_up_fence(engine: Engine) -> None:
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            for statement in _SQLITE_FENCE:
                connection.exec_driver_sql(statement)
            return
        there = "SELECT 1 FROM pg_trigger WHERE tgname = 'journal_fence' AND tgrelid = 'journal'::regclass"
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('journal_fence'))")
        if connection.exec_driver_sql(there).first() is None:
            for statement in _POSTGRESQL_FENCE:
                connection.exec_driver_sql(statement)


def _json(facts: dict[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
