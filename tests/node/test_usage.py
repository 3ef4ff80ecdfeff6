"""The account of what was used: it adds up, lasts, and counts a request once."""

import pytest
from sqlalchemy.exc import OperationalError

from polyclinic.node.database import open_database
from polyclinic.node.rules import Usage
from polyclinic.node.usage import UsageAccount


@pytest.fixture
def path(tmp_path):
    return tmp_path / "node.sqlite"


def test_nothing_is_used_at_first(path):
    assert UsageAccount(open_database(path)).used("ada", "heart") == Usage(0, 0.0, 0)


def test_it_adds_up_by_researcher_dataset_and_experiment(path):
    account = UsageAccount(open_database(path))
    for key, who, what, experiment, rounds, seconds in (
        ("1", "ada", "heart", "a", 1, 2.5),
        ("2", "ada", "heart", "b", 1, 1.5),
        ("3", "ada", "heart", "b", 0, 4.0),  # an evaluation
        ("4", "ada", "lung", "a", 1, 8.0),
        ("1", "bob", "heart", "a", 1, 16.0),  # another researcher's key is another one
    ):
        account.add(who, what, key, rounds=rounds, seconds=seconds, experiment_id=experiment)
    assert account.used("ada", "heart", "b") == Usage(2, 8.0, 1)
    assert account.used("ada", "heart") == Usage(2, 8.0, 0)
    assert account.used("ada", "lung", "a") == Usage(1, 8.0, 1)
    assert account.used("bob", "heart", "a") == Usage(1, 16.0, 1)


def test_a_request_that_comes_again_counts_once_also_after_a_restart(path):
    account = UsageAccount(open_database(path))
    account.add("ada", "heart", "1", rounds=1, seconds=2.0)
    account.add("ada", "heart", "1", rounds=1, seconds=2.0)
    account.flush()
    account.add("ada", "heart", "1", rounds=1, seconds=3.0)
    account.flush()
    again = UsageAccount(open_database(path))
    again.add("ada", "heart", "1", rounds=1, seconds=4.0)
    again.flush()
    assert again.used("ada", "heart") == Usage(1, 2.0, 0)


def test_what_is_not_flushed_is_not_there_after_a_restart(path):
    UsageAccount(open_database(path)).add("ada", "heart", "1", rounds=1, seconds=2.0)
    assert UsageAccount(open_database(path)).used("ada", "heart") == Usage()


def test_what_the_database_did_not_take_is_written_the_next_time(path, monkeypatch):
    account = UsageAccount(open_database(path))
    account.add("ada", "heart", "1", rounds=1, seconds=2.0)

    def full(*_):
        raise OperationalError("insert", {}, Exception("disk is full"))

    with monkeypatch.context() as patch:
        patch.setattr("sqlalchemy.engine.Connection.execute", full)
        with pytest.raises(OperationalError):
            account.flush()
    account.flush()
    assert UsageAccount(open_database(path)).used("ada", "heart") == Usage(1, 2.0, 0)
