"""How much each researcher has used of each dataset, kept in the node's database."""

from __future__ import annotations

import threading
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from polyclinic.node.database import Base
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
    dataset_id: Mapped[str] = mapped_column(index=True)
    experiment_id: Mapped[str]
    rounds: Mapped[int]
    seconds: Mapped[float]


class UsageAccount:
    """The account of a node. What was added is in the database after `flush`; a request counts once.

    Args:
        engine: of the node's database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._waiting: dict[tuple[str, str], dict[str, Any]] = {}
        self._lock = threading.Lock()
        Base.metadata.create_all(engine, tables=[Base.metadata.tables[UsageRow.__tablename__]])

    def used(self, researcher_id: str, dataset_id: str, experiment_id: str = "") -> Usage:
        """All until now, with what is not flushed yet.

        Args:
            experiment_id: whose rounds are told apart; "": none.
        """
        self.flush()
        of_one = (UsageRow.researcher_id == researcher_id, UsageRow.dataset_id == dataset_id)
        sums = select(func.sum(UsageRow.rounds), func.sum(UsageRow.seconds)).where(*of_one)
        of_experiment = select(func.sum(UsageRow.rounds)).where(*of_one, UsageRow.experiment_id == experiment_id)
        with Session(self._engine) as session:
            rounds, seconds = session.execute(sums).one()
            own = session.scalar(of_experiment) if experiment_id else 0
            return Usage(int(rounds or 0), float(seconds or 0.0), int(own or 0))

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
        with self._lock:
            if not self._waiting:
                return
            with Session(self._engine) as session:
                for (researcher_id, key), row in self._waiting.items():
                    if session.get(UsageRow, (researcher_id, key)) is None:
                        session.add(UsageRow(researcher_id=researcher_id, key=key, **row))
                session.commit()
            self._waiting.clear()
