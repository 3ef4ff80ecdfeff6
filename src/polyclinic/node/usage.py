"""How much each researcher has used of each dataset, kept in the node's database."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, bindparam, func, insert, select
from sqlalchemy.orm import Mapped, mapped_column

from polyclinic.node.database import Base, make_tables
from polyclinic.node.rules import Usage


class UsageRow(Base):
    """What one request has used.

    Attributes:
        key: what tells the request from all others of its researcher.
        seconds: of work.
    """

    __tablename__ = "usage"

    researcher_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    dataset_id: Mapped[str]
    experiment_id: Mapped[str]
    rounds: Mapped[int]
    seconds: Mapped[float]


_table = Base.metadata.tables[UsageRow.__tablename__]
_SAME = select(_table.c.key).where(_table.c.researcher_id == bindparam("who"), _table.c.key == bindparam("what"))


class UsageAccount:
    """The account of a node. What was added is in the database after `flush`; a request counts once.

    Args:
        engine: of the node's database. Nobody else writes to this account meanwhile.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: dict[tuple[str, str], dict[str, Any]] = {}
        self._lock = threading.Lock()
        make_tables(engine, UsageRow)
        # Rounds and seconds by researcher, dataset and experiment: a sum over all rows would take its time each round.
        of_one = (UsageRow.researcher_id, UsageRow.dataset_id, UsageRow.experiment_id)
        sums = select(*of_one, func.sum(UsageRow.rounds), func.sum(UsageRow.seconds)).group_by(*of_one)
        with engine.connect() as connection:
            self._sums = {(who, what, why): (int(n), float(t)) for who, what, why, n, t in connection.execute(sums)}

    def used(self, researcher_id: str, dataset_id: str, experiment_id: str = "") -> Usage:
        """All until now, with what is not flushed yet.

        Args:
            experiment_id: whose rounds are told apart; "": none.
        """
        self.flush()
        with self._lock:
            own = {key[2]: sums for key, sums in self._sums.items() if key[:2] == (researcher_id, dataset_id)}
        rounds, seconds = sum(n for n, _ in own.values()), math.fsum(t for _, t in own.values())
        return Usage(rounds, seconds, own.get(experiment_id, (0, 0.0))[0] if experiment_id else 0)

    def add(
        self, researcher_id: str, dataset_id: str, key: str, *, rounds: int, seconds: float, experiment_id: str = ""
    ) -> None:
        """Adds what a request has used; a request that was added before is not added again.

        Args:
            key: must be one that the researcher cannot give to another request, or that other one would be free.
        """
        row = {"dataset_id": dataset_id, "experiment_id": experiment_id, "rounds": rounds, "seconds": seconds}
        with self._lock:
            self._waiting.setdefault((researcher_id, key), row)

    def flush(self) -> None:
        """Writes what was added since, in one transaction.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: the database does not take it; it is written with the next flush.
        """
        if self._waiting:
            with self.flushing() as write, self._engine.begin() as connection:
                write(connection)

    @contextmanager
    def flushing(self) -> Iterator[Callable[[Connection], None]]:
        """What writes, in somebody else's transaction, all that was added since. Leave the block after its commit; if
        by an error, it is written with the next flush."""
        with self._lock:
            rows = [{"researcher_id": who, "key": key, **row} for (who, key), row in self._waiting.items()]

            def write(connection: Connection) -> None:
                rows[:] = [row for row in rows if not _is_there(connection, row)]
                if rows:
                    connection.execute(insert(_table), rows)

            yield write
            self._waiting.clear()
            for row in rows:
                key = row["researcher_id"], row["dataset_id"], row["experiment_id"]
                rounds, seconds = self._sums.get(key, (0, 0.0))
                self._sums[key] = (rounds + row["rounds"], seconds + row["seconds"])


def _is_there(connection: Connection, row: dict[str, Any]) -> bool:
    return connection.execute(_SAME, {"who": row["researcher_id"], "what": row["key"]}).first() is not None
