"""A node's database, through SQLAlchemy: SQLite in write-ahead mode in the node's folder, or PostgreSQL by URL."""

from __future__ import annotations

import os
import sqlite3
import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, URL, Engine, create_engine, event, make_url, select, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, ProgrammingError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool, QueuePool

from polyclinic.errors import ConfigError, NodeError

FORMAT_VERSION = 1
DATABASE = "node.sqlite"
# In place of it, where the database is elsewhere: its URL, for the node's own user only.
DATABASE_URL = "database.url"
DATABASE_VARIABLE = "POLYCLINIC_NODE_DATABASE"

_DISK_FULL = "53100"  # PostgreSQL's code for it
_LOCAL = ("localhost", "127.0.0.1", "::1")


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


def is_node_folder(folder: Path) -> bool:
    """Whether a node keeps its things here."""
    return (folder / DATABASE).is_file() or (folder / DATABASE_URL).is_file()


def node_folders(place: Path) -> list[Path]:
    """The folders of the nodes at a place, by their ids."""
    return sorted({path.parent for name in (DATABASE, DATABASE_URL) for path in place.glob(f"*/{name}")})


def database_of(folder: Path, *, at_work: bool = False) -> Engine:
    """The engine for the database of the node with this folder.

    Args:
        at_work: connections are kept for the next look, as is worth it for a program that looks all the time.

    Raises:
        NodeError: it cannot be reached.
        ConfigError: its URL is none.
    """
    kept = folder / DATABASE_URL
    if not kept.is_file():
        return open_database(folder / DATABASE, at_work=at_work)
    url = os.environ.get(DATABASE_VARIABLE) or kept.read_text(encoding="utf-8").strip()
    return open_database(url, at_work=at_work)


def new_database(folder: Path, url: str | None) -> Engine:
    """The engine for the database of a new node.

    Args:
        folder: the node's own, which is made.
        url: of a PostgreSQL database; None: SQLite in the folder.

    Raises:
        NodeError: the database is another node's, or cannot be reached. Nothing is left behind then.
        ConfigError: the URL is none.
    """
    if url is None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return open_database(folder / DATABASE)
    engine = open_database(url)
    with Session(engine) as session:
        if (other := session.scalars(select(NodeRow.node_id)).first()) is not None:
            raise NodeError(
                f"that database is already the one of a node {other!r}",
                to_do="give each node a database of its own, or a schema: …?schema=NAME",
            )
    if url == os.environ.get(DATABASE_VARIABLE):
        # A password that is in the environment stays there.
        url = parse_url(url)._replace(password=None).render_as_string(hide_password=False)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with os.fdopen(os.open(folder / DATABASE_URL, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(url + "\n")
    return engine


def make_node(folder: Path, node_id: str, name: str, url: str | None) -> None:
    """Makes the database of a new node, as `new_database`, and writes its row."""
    with Session(new_database(folder, url)) as session:
        session.add(NodeRow(node_id=node_id, name=name))
        session.commit()


def node_in(engine: Engine) -> NodeRow:
    """The node whose database this is.

    Raises:
        NodeError: it is incomplete, or of another format.
    """
    with Session(engine) as session:
        row = session.scalars(select(NodeRow)).first()
    if row is None or row.format_version != FORMAT_VERSION:
        what = "is incomplete" if row is None else f"has format {row.format_version}, not {FORMAT_VERSION}"
        raise NodeError(
            f"the node's database {engine.url.database} {what}",
            to_do="make the node again in another folder, or use the version of Polyclinic that made it",
        )
    return row


def parse_url(url: str) -> URL:
    """A PostgreSQL database's URL.

    Raises:
        ConfigError: it is none. It is not shown, because there may be a password in it.
    """
    to_do = "write postgresql+pg8000://USER:PASSWORD@HOST/DATABASE, and ?schema=NAME if several nodes share it"
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError("the database's URL cannot be read", to_do=to_do) from None
    if parsed.drivername not in ("postgresql", "postgresql+pg8000"):
        raise ConfigError(f"a node's database is not {parsed.drivername!r}", to_do=to_do)
    if unknown := set(parsed.query) - {"schema", "sslmode", "sslrootcert"}:
        raise ConfigError(f"the database's URL has an unknown setting {min(unknown)!r}", to_do=to_do)
    return parsed.set(drivername="postgresql+pg8000")


def open_database(where: Path | str, *, at_work: bool = False) -> Engine:
    """The engine for an SQLite file or the URL of a PostgreSQL database; tables are made if they are missing.

    Args:
        at_work: as for `database_of`.

    Raises:
        NodeError: it cannot be reached.
        ConfigError: the URL is none.
    """
    pool: dict[str, Any] = {"poolclass": QueuePool if at_work else NullPool}
    if isinstance(where, Path):
        engine = _sqlite(where, pool)
    else:
        # A connection that was kept may have ended with its server.
        engine = _postgresql(parse_url(where), pool | {"pool_pre_ping": at_work})
    event.listen(engine, "handle_error", _told_clearly)
    if isinstance(where, Path):
        with engine.connect() as connection:
            connection.execute(text("PRAGMA journal_mode=WAL"))  # stays so: the file remembers it
    make_tables(engine, NodeRow, DatasetRow)
    return engine


def make_tables(engine: Engine, *rows: type[Base]) -> None:
    """Makes the tables that are missing; another program may be doing the same."""
    tables = [Base.metadata.tables[row.__tablename__] for row in rows]
    for _ in tables:  # each of them may be what the other was faster with
        with suppress(OperationalError, ProgrammingError, IntegrityError):
            Base.metadata.create_all(engine, tables=tables)
            return
    Base.metadata.create_all(engine, tables=tables)


def _sqlite(path: Path, pool: dict[str, Any]) -> Engine:
    # A connection that is kept holds three files open: not for each of many nodes in one program, which look rarely.
    # The last one that closes writes the log back into the file, and waits for the disk: not with each request.
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 10}, hide_parameters=True, **pool)

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _record: Any) -> None:
        # FULL: what was committed survives a power cut as well.
        connection.execute("PRAGMA synchronous=FULL")

    return engine


def _postgresql(url: URL, pool: dict[str, Any]) -> Engine:
    settings = {name: value if isinstance(value, str) else value[-1] for name, value in url.query.items()}
    schema = settings.get("schema")
    bare = url.difference_update_query(["schema", "sslmode", "sslrootcert"])
    arguments: dict[str, Any] = {
        "timeout": 30,
        "application_name": "polyclinic",
        "ssl_context": _tls(url.host, settings),
    }
    if url.password is None:
        arguments["password"] = ""  # pg8000 fails in a strange way where there is none, and one is asked for
    try:
        engine = create_engine(bare, connect_args=arguments, hide_parameters=True, **pool)
    except ModuleNotFoundError as err:
        raise NodeError(f"{err.name} is not installed", to_do="pip install 'polyclinic[postgresql]'") from None

    @event.listens_for(engine, "connect")
    def _set(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute("SET TIME ZONE 'UTC'")
        # Also where somebody has set the server to tell of commits that the disk does not have yet.
        cursor.execute("SET synchronous_commit TO on")
        if schema:
            quoted = '"' + schema.replace('"', '""') + '"'
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted}")
            cursor.execute(f"SET search_path TO {quoted}")
        connection.commit()
        cursor.close()

    return engine


def _tls(host: str | None, settings: dict[str, str]) -> ssl.SSLContext | bool:
    """Over a network, the server's certificate is verified, unless it was said otherwise."""
    mode = settings.get("sslmode", "disable" if not host or host in _LOCAL else "verify-full")
    if mode == "disable":
        return False
    if mode != "verify-full":
        raise ConfigError(
            f"the database's URL has an sslmode {mode!r}", to_do="sslmode is verify-full (the default) or disable"
        )
    try:
        return ssl.create_default_context(cafile=settings.get("sslrootcert"))
    except OSError as err:
        raise ConfigError(f"the file of sslrootcert cannot be read: {err.strerror or err}") from None


def _told_clearly(context: ExceptionContext) -> None:
    """In place of what the database's own library raises, what a data manager can do."""
    # A Ctrl-C in the middle of it stays one.
    if context.is_pre_ping or context.engine is None or not isinstance(context.original_exception, Exception):
        return
    err, what = context.original_exception, str(context.original_exception)
    where = context.engine.url.render_as_string()  # without its password
    if isinstance(err, sqlite3.OperationalError):
        if "full" in what or "disk I/O" in what or "unable to open" in what or "readonly" in what:
            raise NodeError(
                f"the disk does not take what the node writes down: {what} ({where})",
                to_do="make room on it, or look whether it may be written; what was written before is whole",
            ) from err
        if "locked" in what:
            raise NodeError(
                f"another program keeps the node's database busy ({where})", to_do="wait until it is done, or stop it"
            ) from err
    elif context.is_disconnect or context.connection is None:
        raise NodeError(
            f"the node's database cannot be reached ({where}): {_said(err)}",
            to_do=f"start its server, or mend its URL in the file {DATABASE_URL} in the node's folder",
        ) from err
    elif _DISK_FULL in what:
        raise NodeError(f"the disk of the node's database is full ({where})", to_do="make room on it") from err


def _said(err: BaseException) -> str:
    """What the server says, or else the first line of what its library does."""
    told = err.args[0] if err.args else ""
    return str(told.get("M", "")) if isinstance(told, dict) else str(told).partition("\n")[0]
