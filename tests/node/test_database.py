"""A node's database: a real PostgreSQL server beside SQLite, and a disk that is full."""

import os
import subprocess
from contextlib import suppress

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from polyclinic.errors import ConfigError, NodeError
from polyclinic.node.database import DATABASE_URL, DATABASE_VARIABLE, database_of, node_in, open_database, parse_url
from polyclinic.node.journal import Journal
from polyclinic.node.journal_check import read, verify
from polyclinic.node.node import Node
from tests.node.postgresql import PASSWORD

SHA = "5e" * 32


def test_a_node_in_postgresql(postgresql, tmp_path):
    url = f"{postgresql}?schema=guys"
    node = Node.create(tmp_path, "Guy's", database=url)
    (tmp_path / "t.csv").write_text("a,y\n" + "".join(f"{n},{n % 2}\n" for n in range(20)))
    node.registry.add("tabular", {"path": tmp_path / "t.csv", "target": "y"}, tags=["t"], name="data")
    again = Node.open(node.folder)
    assert (again.node_id, again.name) == ("guy-s", "Guy's")
    assert [dataset.dataset_id for dataset in again.registry.datasets()] == ["data"]
    again.registry.remove("data")
    assert [row.facts["action"] for row in read(again.engine, kind="dataset")] == ["added", "removed"]
    assert (node.folder / DATABASE_URL).stat().st_mode & 0o777 == 0o600
    with pytest.raises(NodeError, match="already the one of a node 'guy-s'") as caught:
        Node.create(tmp_path, "Other", database=url)
    assert PASSWORD not in str(caught.value)
    assert not (tmp_path / "other").exists()
    Node.create(tmp_path, "Other", database=f"{postgresql}?schema=other")


def test_a_journal_in_postgresql_is_one_chain_and_refuses_changes(postgresql, tmp_path):
    engine = open_database(f"{postgresql}?schema=journal")
    journals = [Journal(open_database(f"{postgresql}?schema=journal"), folder=tmp_path) for _ in range(3)]
    for journal in journals * 5:
        journal.write("policy", digest=SHA)
        journal.flush()
    found = verify(engine, folder=tmp_path)
    assert (found.row, found.rows) == (None, 15)
    for statement in ("UPDATE journal SET kind = 'x'", "DELETE FROM journal", "TRUNCATE journal"):
        with pytest.raises(DBAPIError, match="only ever added to"), engine.begin() as connection:
            connection.exec_driver_sql(statement)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE journal DISABLE TRIGGER ALL")
        connection.exec_driver_sql("DELETE FROM journal WHERE number = 4")
    assert verify(engine, folder=tmp_path).row == 5


def test_a_node_at_work_gets_over_the_end_of_its_connections(postgresql, tmp_path):
    """As when the server was started again."""
    folder = Node.create(tmp_path, "Guy's", database=f"{postgresql}?schema=ends").folder
    engine = database_of(folder, at_work=True)
    end_others = text(
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity"
        " WHERE application_name = 'polyclinic' AND pid <> pg_backend_pid()"
    )

    def end_connections():
        with database_of(folder).connect() as other:
            return sum(other.execute(end_others).scalars())

    journal = Journal(engine, folder=folder)
    for number in range(3):
        journal.write("ended", request=f"r{number}", outcome="done")
        journal.flush()
        assert end_connections() >= 1
        assert node_in(engine).name == "Guy's"

    # In the middle of a transaction it is an error, and nothing is lost.
    def end_it(_connection):
        end_connections()

    journal.write("ended", request="r3", outcome="done")
    with pytest.raises(NodeError, match="cannot be reached"):
        journal.flush(end_it)
    journal.flush()
    assert [row.facts["request"] for row in read(engine, kind="ended")] == ["r0", "r1", "r2", "r3"]
    assert verify(engine, folder=folder).row is None
    engine.dispose()


def test_a_password_in_the_environment_is_not_written_down(postgresql, tmp_path, monkeypatch):
    url = f"{postgresql}?schema=secret"
    monkeypatch.setenv(DATABASE_VARIABLE, url)
    node = Node.create(tmp_path, "Guy's", database=url)
    assert PASSWORD not in (node.folder / DATABASE_URL).read_text()
    assert Node.open(node.folder).name == "Guy's"
    monkeypatch.delenv(DATABASE_VARIABLE)
    with pytest.raises(NodeError, match="cannot be reached"):
        Node.open(node.folder)


def test_a_server_that_is_away(tmp_path):
    with pytest.raises(NodeError, match="cannot be reached") as caught:
        Node.create(tmp_path, "Guy's", database=f"postgresql://clinic:{PASSWORD}@127.0.0.1:1/postgres")
    assert PASSWORD not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        (f"mysql://clinic:{PASSWORD}@host/x", "not 'mysql'"),
        (f"clinic:{PASSWORD}", "cannot be read"),
        (f"postgresql://clinic:{PASSWORD}@host/x?shema=a", "unknown setting 'shema'"),
    ],
)
def test_what_is_no_url_of_a_database(url, says):
    with pytest.raises(ConfigError, match=says) as caught:
        parse_url(url)
    assert PASSWORD not in str(caught.value)


def test_a_full_disk_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.getuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        engine = open_database(disk / "node.sqlite")
        journal = Journal(engine, folder=disk)
        journal.write("ended", request="first", outcome="done")
        journal.flush()
        filling = disk / "filling"
        with filling.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        for number in range(300):
            journal.write("ended", request=f"r{number}", outcome="done", metrics=["m" * 150])
        with pytest.raises(NodeError, match="the disk does not take") as caught:
            journal.flush()
        assert "make room" in caught.value.to_do
        filling.unlink()
        assert [row.facts["request"] for row in read(engine)] == ["first"]
        journal.flush()
        found = verify(engine, folder=disk)
        assert (found.row, found.rows) == (None, 301)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_ctrl_c_while_it_is_asked_stays_one(tmp_path):
    engine = open_database(tmp_path / "node.sqlite")

    def interrupt(*_):
        raise KeyboardInterrupt

    event.listen(engine, "do_execute", interrupt)
    with pytest.raises(KeyboardInterrupt):
        node_in(engine)
