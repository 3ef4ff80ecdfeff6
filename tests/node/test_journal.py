"""The journal: one chain whoever writes, closed rows, signatures; and each way to falsify it."""

import hashlib
import json
import os
import signal
import subprocess
import sys

import pytest
from sqlalchemy.exc import DBAPIError

from polyclinic.federation.over_nats.identity import KeyPair, is_signed
from polyclinic.node.database import open_database
from polyclinic.node.journal import HEAD, Journal
from polyclinic.node.journal_check import read, verify

SHA = "5e" * 32


def opened(folder):
    return open_database(folder / "node.sqlite")


@pytest.fixture
def keys():
    return KeyPair.generate()


@pytest.fixture
def engine(tmp_path):
    return opened(tmp_path)


@pytest.fixture
def journal(engine, keys, tmp_path):
    """Ten rows: the key, its signature, seven ends, and a signature."""
    journal = Journal(engine, keys.sign, folder=tmp_path)
    journal.note_key(keys.public_key)
    for number in range(7):
        journal.write("ended", request=f"r{number}", outcome="done", rows=number)
    journal.sign()
    return journal


def change(engine, *statements):
    """As somebody who owns the database does, and takes down its fence before."""
    with engine.begin() as connection:
        for name in ("update", "delete"):
            connection.exec_driver_sql(f"DROP TRIGGER IF EXISTS journal_no_{name}")
        for statement in statements:
            connection.exec_driver_sql(statement)


def look(engine, folder, **settings):
    found = verify(engine, folder=folder, is_signed=is_signed, **settings)
    return found.row, found.problem


def test_the_hash_of_a_row_is_that_of_its_line_and_is_in_the_next(journal, engine, tmp_path, keys):
    rows = list(read(engine))
    assert [row.kind for row in rows] == ["key", "signature", *["ended"] * 7, "signature"]
    previous = "0" * 64
    for number, row in enumerate(rows, 1):
        fields = json.loads(row.line)
        assert fields == {
            "number": number,
            "time": row.time,
            "kind": row.kind,
            "facts": row.facts,
            "previous": previous,
        }
        line = json.dumps(fields, separators=(",", ":"))
        previous = hashlib.sha256(line.encode()).hexdigest()
        assert row.digest == previous
    found = verify(engine, folder=tmp_path, is_signed=is_signed, key=keys.public_key)
    assert (found.row, found.rows, found.signatures, found.signed, found.key) == (None, 10, 2, 9, keys.public_key)


@pytest.mark.parametrize(
    ("statements", "row", "says"),
    [
        (
            ["UPDATE journal SET facts = replace(facts, '\"rows\":3', '\"rows\":4') WHERE number = 6"],
            6,
            "not as it was",
        ),
        (["UPDATE journal SET time = '2020-01-01T00:00:00.000000Z' WHERE number = 5"], 5, "not as it was"),
        (["UPDATE journal SET time = 'yesterday' WHERE number = 5"], 5, "time or kind"),
        (["DELETE FROM journal WHERE number = 4"], 5, "1 rows between them are missing"),
        (["DELETE FROM journal WHERE number < 4"], 4, "3 rows between"),
        (
            ["DELETE FROM journal WHERE number = 4", "UPDATE journal SET number = 4 WHERE number = 5"],
            4,
            "not as it was",
        ),
        (
            [
                "UPDATE journal SET number = 99 WHERE number = 4",
                "UPDATE journal SET number = 4 WHERE number = 5",
                "UPDATE journal SET number = 5 WHERE number = 99",
            ],
            4,
            "content or place",
        ),
        (["DELETE FROM journal WHERE number > 9"], 10, "1 rows were cut off the end"),
        (["DELETE FROM journal"], 1, "10 rows were cut off the end"),
        (
            ["UPDATE journal SET digest = (SELECT digest FROM journal WHERE number = 3) WHERE number = 4"],
            4,
            "not as it",
        ),
    ],
    ids=["edited", "time", "no-time", "deleted", "beginning", "renumbered", "exchanged", "tail", "all", "hash"],
)
def test_the_first_row_that_is_not_as_it_was_is_named(journal, engine, tmp_path, statements, row, says):
    change(engine, *statements)
    found, problem = look(engine, tmp_path)
    assert found == row
    assert says in problem


def rewritten(engine, number):
    """A row with other facts, and the hash that goes with them."""
    row = next(row for row in read(engine) if row.number == number)
    line = row.line.replace('"rows":3', '"rows":4')
    digest = hashlib.sha256(line.encode()).hexdigest()
    change(
        engine,
        f"UPDATE journal SET facts = replace(facts, '\"rows\":3', '\"rows\":4'), digest = '{digest}' "
        f"WHERE number = {number}",
    )


def test_a_row_that_is_replaced_with_its_hash(journal, engine, tmp_path):
    rewritten(engine, 6)
    found, problem = look(engine, tmp_path)
    assert found == 6
    assert "row 7 was written" in problem


def test_a_whole_new_chain_without_the_key(journal, engine, tmp_path, keys):
    rows = list(read(engine))
    change(engine, "DELETE FROM journal")
    (tmp_path / HEAD).unlink()
    forged = Journal(engine, KeyPair.generate().sign, folder=tmp_path)
    forged.write("key", key=keys.public_key)
    for row in rows[2:9]:
        forged.write("ended", **{**row.facts, "rows": 1})
    forged.sign()
    found, problem = look(engine, tmp_path)
    assert found == 9
    assert "not by the node's key" in problem


def test_a_journal_by_another_key_than_is_known(journal, engine, tmp_path):
    assert "by another key" in look(engine, tmp_path, key=KeyPair.generate().public_key)[1]


def test_what_was_cut_off_is_told_by_the_next_row_for_ever(journal, engine, tmp_path):
    change(engine, "DELETE FROM journal WHERE number > 6")
    journal.write("policy", digest=SHA)
    journal.flush()
    assert [row.kind for row in read(engine)][-2:] == ["gap", "policy"]
    found, problem = look(engine, tmp_path)
    assert found == 7
    assert "row 10 was there before" in problem


def test_the_database_itself_refuses(journal, engine):
    for statement in ("UPDATE journal SET kind = 'x'", "DELETE FROM journal"):
        with engine.begin() as connection, pytest.raises(DBAPIError, match="only ever added to"):
            connection.exec_driver_sql(statement)


def test_a_day_is_signed_once_and_nothing_without_rows(engine, keys, tmp_path):
    journal = Journal(engine, keys.sign, folder=tmp_path)
    journal.flush()
    assert list(read(engine)) == []
    journal.note_key(keys.public_key)
    for _ in range(3):
        journal.write("policy", digest=SHA)
        journal.flush()
    again = Journal(engine, keys.sign, folder=tmp_path)
    again.note_key(keys.public_key)
    again.write("policy", digest=SHA)
    again.flush()
    assert [row.kind for row in read(engine)] == ["key", "signature", *["policy"] * 4]


def test_without_a_key_rows_are_unsigned(engine, tmp_path):
    journal = Journal(engine, folder=tmp_path)
    journal.write("policy", digest=SHA)
    assert journal.sign() is False
    assert (verify(engine, folder=tmp_path).signatures, look(engine, tmp_path)) == (0, (None, ""))


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        ("ended", {"request": "r", "outcome": "done", "what": "MARKED 4711.25"}),
        ("ended", {"request": "r", "outcome": "MARKED 4711.25"}),
        ("ended", {"request": "r", "outcome": "done", "seconds": "MARKED 4711.25"}),
        ("nothing", {"text": "MARKED 4711.25"}),
    ],
)
def test_what_a_row_does_not_have_is_refused_and_not_shown(journal, kind, facts):
    with pytest.raises(TypeError, match=r"the journal has no rows|do not have so") as caught:
        journal.write(kind, **facts)
    assert "MARKED" not in str(caught.value)
    assert "4711" not in str(caught.value)


def test_a_code_and_a_stage_of_somebody_elses_are_not_taken_at_their_word(journal, engine):
    journal.write("ended", request="r", outcome="failed", code="value-4711.25", stage="value-4711.25")
    journal.write("ended", request="r", outcome="failed", code="diverged", stage="train")
    journal.flush()
    codes = [(row.facts["code"], row.facts["stage"]) for row in read(engine, kind="ended")]
    assert codes[-2:] == [("other", "other"), ("diverged", "train")]


WRITER = """
import sys
from pathlib import Path
from polyclinic.node.database import open_database
from polyclinic.node.journal import Journal
folder, name = Path(sys.argv[1]), sys.argv[2]
journal = Journal(open_database(folder / "node.sqlite"), folder=folder)
for number in range(int(sys.argv[3])):
    journal.write("ended", request=f"{name}-{number}", outcome="done")
    journal.flush()
    print(f"{name}-{number}", flush=True)
"""


def writer(folder, name, count):
    command = [sys.executable, "-c", WRITER, str(folder), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_several_processes_write_one_chain(tmp_path):
    processes = [writer(tmp_path, name, 40) for name in "abc"]
    said = [line for process in processes for line in process.communicate()[0].split()]
    assert [process.returncode for process in processes] == [0, 0, 0]
    engine = opened(tmp_path)
    assert sorted(row.facts["request"] for row in read(engine)) == sorted(said)
    assert len(said) == 120
    assert look(engine, tmp_path) == (None, "")


def test_what_was_acknowledged_before_a_kill_is_there(tmp_path):
    process = writer(tmp_path, "a", 100_000)
    said = [process.stdout.readline().strip() for _ in range(30)]
    os.kill(process.pid, signal.SIGKILL)
    said += process.communicate()[0].split()
    engine = opened(tmp_path)
    there = [row.facts["request"] for row in read(engine, kind="ended")]
    assert there[: len(said)] == said
    assert len(there) <= len(said) + 1  # one may be written, and not acknowledged
    assert look(engine, tmp_path) == (None, "")


def test_what_is_written_along_is_written_with_the_rows_or_not_at_all(journal, engine, tmp_path):
    def fails(connection):
        connection.exec_driver_sql("CREATE TABLE along (x INTEGER)")
        raise RuntimeError("no")

    before = len(list(read(engine)))
    journal.write("policy", digest=SHA)
    with pytest.raises(RuntimeError):
        journal.flush(fails)
    assert len(list(read(engine))) == before
    journal.flush(lambda connection: connection.exec_driver_sql("CREATE TABLE along (x INTEGER)"))
    assert len(list(read(engine))) == before + 1
    assert look(engine, tmp_path)[1] == ""
