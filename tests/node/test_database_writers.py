"""Several programs that write to one node's database in PostgreSQL at once, and some of them killed at it."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from polyclinic.node.approvals import Approvals
from polyclinic.node.database import database_of
from polyclinic.node.journal_check import read, verify
from polyclinic.node.node import Node
from polyclinic.node.rules import Usage
from polyclinic.node.usage import UsageAccount
from tests.node.governed import request

# Writes as a node does for a round, and says so when it is done. From a number on, it never comes to the end of a
# commit of the journal.
WRITER = """
import sys, time
from pathlib import Path
from sqlalchemy import event
from polyclinic.node.approvals import Approvals
from polyclinic.node.database import database_of
from polyclinic.node.journal import Journal
from polyclinic.node.usage import UsageAccount
folder, name, approval = Path(sys.argv[1]), sys.argv[2], sys.argv[5]
count, stuck_at = map(int, sys.argv[3:5])
engine = database_of(folder, at_work=True)
journal, usage, approvals = Journal(engine, folder=folder), UsageAccount(engine), Approvals(engine)
def stay(connection):
    print("stuck", flush=True)
    time.sleep(600)
for number in range(count):
    if number == stuck_at:
        event.listen(engine, "commit", stay)
    journal.write("ended", request=f"{name}-{number}", outcome="done")
    usage.add("ada", "heart", f"{name}-{number}", rounds=1, seconds=2.0)
    with usage.flushing() as write:
        journal.flush(write, lambda connection: approvals.use(connection, approval))
    print(f"{name}-{number}", flush=True)
"""
PATIENCE = 120


@pytest.fixture
def node(postgresql, tmp_path):
    return Node.create(tmp_path, "Guy's", database=f"{postgresql}?schema={tmp_path.name[:50]}")


@pytest.fixture
def approval(node):
    approvals = Approvals(node.engine)
    return approvals.approve(approvals.look("ada", "UADA", request())[0], rounds=1000).id


def writer(node, approval, name, count, stuck_at=-1):
    command = [sys.executable, "-c", WRITER, str(node.folder), name, str(count), str(stuck_at), approval]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def requests(engine):
    return [row.facts["request"] for row in read(engine, kind="ended")]


def journal_verify(node):
    """What the data manager's own command says."""
    command = [sys.executable, "-m", "polyclinic", "node", "journal", "verify", node.node_id]
    done = subprocess.run([*command, "--at", str(node.folder.parent)], capture_output=True, text=True)
    return done.returncode, done.stderr


def test_programs_that_begin_at_once_make_the_tables_once(node):
    for _ in range(5):
        with database_of(node.folder).begin() as connection:
            connection.exec_driver_sql("DROP TABLE IF EXISTS usage")
        ready = threading.Barrier(6)

        def begin(_, ready=ready):
            engine = database_of(node.folder)
            ready.wait(PATIENCE)
            return UsageAccount(engine)

        with ThreadPoolExecutor(6) as pool:
            accounts = list(pool.map(begin, range(6)))
        assert accounts[0].used("ada", "heart") == Usage()


def test_several_writers_at_once_make_one_chain_and_right_sums(node, approval):
    writers = [writer(node, approval, name, 15) for name in "abcd"]
    said = [line for one in writers for line in one.communicate(timeout=PATIENCE)[0].split()]
    assert [one.returncode for one in writers] == [0] * 4
    engine = database_of(node.folder)
    assert len(said) == 60
    assert sorted(requests(engine)) == sorted(said)
    assert UsageAccount(engine).used("ada", "heart") == Usage(60, 120.0, 0)
    assert Approvals(engine).find(approval).used == 60
    assert journal_verify(node) == (0, "")


def test_a_writer_that_is_killed_in_the_middle_of_a_commit_leaves_what_was_there(node, approval):
    killed = writer(node, approval, "killed", 4, stuck_at=3)
    said = [killed.stdout.readline().strip() for _ in range(4)]
    assert said == ["killed-0", "killed-1", "killed-2", "stuck"]
    next_one = writer(node, approval, "next", 3)
    engine = database_of(node.folder)
    until_somebody_waits(engine)
    assert requests(engine) == said[:3]
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert next_one.communicate(timeout=PATIENCE)[0].split() == ["next-0", "next-1", "next-2"]
    assert requests(engine) == [*said[:3], "next-0", "next-1", "next-2"]
    assert UsageAccount(engine).used("ada", "heart") == Usage(6, 12.0, 0)
    assert Approvals(engine).find(approval).used == 6
    assert journal_verify(node) == (0, "")


def test_writers_that_are_killed_while_others_write_lose_nothing_that_they_said(node, approval):
    steady = writer(node, approval, "steady", 30)
    said = []
    for number in range(3):
        killed = writer(node, approval, f"killed{number}", 10_000)
        said += [killed.stdout.readline().strip() for _ in range(5)]
        os.kill(killed.pid, signal.SIGKILL)
        said += killed.communicate()[0].split()
    said += steady.communicate(timeout=PATIENCE)[0].split()
    engine = database_of(node.folder)
    there = requests(engine)
    assert set(there) >= set(said)
    # Of each that was killed one may be written, and not said.
    assert len(there) == len(set(there)) <= len(said) + 3
    assert len(said) <= UsageAccount(engine).used("ada", "heart").rounds <= len(there)
    assert len(said) <= Approvals(engine).find(approval).used <= len(there)
    found = verify(engine, folder=node.folder)
    assert (found.row, found.problem) == (None, "")
    last = writer(node, approval, "last", 1)
    assert last.communicate(timeout=PATIENCE)[0] == "last-0\n"
    assert journal_verify(node) == (0, "")


def until_somebody_waits(engine):
    """For the lock of the journal."""
    end = time.monotonic() + PATIENCE
    with engine.connect() as connection:
        while not connection.exec_driver_sql(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'journal'::regclass"
        ).scalar():
            connection.rollback()
            assert time.monotonic() < end, "nobody waits"
            time.sleep(0.05)
