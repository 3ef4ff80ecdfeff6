"""The watch over what a plan uses, when looking itself goes wrong."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from polyclinic.node import sandbox_limits
from polyclinic.node.policy import Resources
from polyclinic.node.sandbox_limits import Watch


def watching(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> tuple[Watch, list[int], threading.Event]:
    """A watch whose first look fails."""
    looks: list[int] = []
    ended, look = threading.Event(), sandbox_limits.processes_below

    def fails_once(root: int, most: int) -> list[int]:
        looks.append(root)
        if len(looks) == 1:
            raise error
        return look(root, most)

    monkeypatch.setattr(sandbox_limits, "processes_below", fails_once)
    return Watch(os.getpid(), 1000, Resources(memory_gb=1000), (folder,), ended.set), looks, ended


def test_what_goes_away_while_it_is_looked_at_is_looked_at_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, looks, ended = watching(tmp_path, monkeypatch, FileNotFoundError("gone"))
    assert not ended.wait(1)
    watch.stop()
    assert len(looks) > 1
    assert watch.over == ""


def test_a_plan_that_cannot_be_watched_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _, ended = watching(tmp_path, monkeypatch, ValueError("no number"))
    assert ended.wait(20)
    assert watch.over == "what cannot be watched"
