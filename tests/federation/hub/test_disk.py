"""What is made of the server's complaints; tests/system/test_hospital_disks.py fills a real disk."""

import asyncio
import shutil
from types import SimpleNamespace

import pytest

from polyclinic.federation.hub.disk import DiskWatch

FULL = "[7] [ERR] Filestore [PAYLOADS] Critical write error: write msgs/2.blk: no space left on device\n"


@pytest.fixture
def watched(tmp_path, monkeypatch):
    (tmp_path / "store").mkdir()
    log = tmp_path / "server.log"
    log.write_text("[7] [INF] Starting\n" + FULL)  # of an earlier start
    restarts = []

    async def restart():
        restarts.append(1)
        # It reads its store, and says what it has found there.
        with log.open("a") as file:
            file.write(FULL)

    free = {"free": 0}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=1 << 30, **free))
    watch = DiskWatch(SimpleNamespace(restart=restart), tmp_path)
    return watch, log, free, restarts


def look(watch):
    asyncio.run(watch._look())
    return watch.is_full


def test_a_complaint_counts_until_there_is_room(watched, caplog):
    watch, log, free, restarts = watched
    assert not look(watch)
    with log.open("a") as file:
        file.write("[7] [INF] nothing of note\n")
    assert not look(watch)
    with log.open("a") as file:
        file.write(FULL)
    assert look(watch)
    assert look(watch)
    assert caplog.text.count("the server cannot write") == 1
    assert not restarts
    free["free"] = 1 << 29
    assert not look(watch)
    assert restarts == [1]
    assert not look(watch)


def test_a_log_that_was_begun_anew_is_read_from_its_start(watched):
    watch, log, _, _ = watched
    log.write_text(FULL)
    assert log.stat().st_size < watch._read
    assert look(watch)
