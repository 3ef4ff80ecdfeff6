"""A node's database."""

from sqlalchemy import text

from polyclinic.node.database import kept_open, open_database


def test_a_file_that_is_kept_open_is_not_written_back_with_each_connection(tmp_path):
    engine = open_database(tmp_path / "node.sqlite")
    log = tmp_path / "node.sqlite-wal"
    with kept_open(engine):
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE thing (number INTEGER)"))
        assert log.stat().st_size > 0
        with engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM thing")).scalar() == 0
    assert not log.exists()
