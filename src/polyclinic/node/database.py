"""A node's database: SQLite in write-ahead mode, through SQLAlchemy."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Engine, create_engine, event, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool

FORMAT_VERSION = 1


class Base(DeclarativeBase):
    pass


class NodeRow(Base):
    """The node itself: exactly one row."""

    __tablename__ = "node"

    node_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    format_version: Mapped[int] = mapped_column(default=FORMAT_VERSION)
    created: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))


class DatasetRow(Base):
    """A registered dataset."""

    __tablename__ = "datasets"

    dataset_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    dataset_kind: Mapped[str]
    tags: Mapped[list[str]] = mapped_column(JSON)
    params: Mapped[dict[str, Any]] = mapped_column(JSON)
    found: Mapped[dict[str, Any]] = mapped_column(JSON)
    added: Mapped[datetime] = mapped_column(default=lambda: datetime.now(UTC))


def open_database(path: Path) -> Engine:
    """The engine for the SQLite file at ``path``; tables are made if they are missing."""
    # No pool: a look at the database is rare, and a connection that is kept holds three files open for each node.
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 10}, poolclass=NullPool)

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        # FULL: what was committed survives a power cut as well.
        connection.execute("PRAGMA synchronous=FULL")

    with engine.connect() as connection:
        connection.execute(text("PRAGMA journal_mode=WAL"))  # stays so: the file remembers it
    Base.metadata.create_all(engine)
    return engine
