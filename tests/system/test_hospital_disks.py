"""The disk is full: at the hub, and at a node. Whoever is concerned is told, and all goes on when there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from polyclinic import Experiment
from polyclinic.errors import FederationError, RoundFailed
from tests.system.hospitals import NAMES, Hospitals, assert_same_end, experiment, in_this_process

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")

SETTINGS = {"ballast": 1_000_000, "round_limit": 1}  # 4 MB


@contextmanager
def small_disk(folder: Path, room: int) -> Iterator[Path]:
    """Has the folder on a disk of its own, with what was in it and some megabytes of room; at its end all is as it was
    before."""
    size = room + sum(path.lstat().st_size for path in folder.rglob("*")) // 2**20
    copy = folder.with_name(f"{folder.name}.before")
    shutil.copytree(folder, copy)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        shutil.rmtree(copy)
        pytest.skip("this machine does not let root mount a small disk")
    try:
        shutil.copytree(copy, folder, dirs_exist_ok=True)
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        shutil.rmtree(copy)


@contextmanager
def almost_full(disk: Path, left: int) -> Iterator[None]:
    """Fills the disk but for some bytes."""
    found = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(found.f_bavail * found.f_frsize - left))
    try:
        yield
    finally:
        filler.unlink()


@pytest.fixture(scope="module")
def expected_here(tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    return in_this_process(tmp_path_factory.mktemp("here"), **SETTINGS)


def test_the_disk_of_the_hub_is_full(hospitals: Hospitals, expected_here: Experiment, tmp_path: Path) -> None:
    hospitals.kill_hub()
    with small_disk(hospitals.tries.hub.server / "store", 32) as disk:
        try:
            hospitals.tries.start_again("hub")
            found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks, **SETTINGS)
            with almost_full(disk, 2 << 20), pytest.raises(FederationError, match="the disk of the hub is full"):
                found.run()
            found.run()
            assert_same_end(found, expected_here)
        finally:
            hospitals.kill_hub()


def test_the_disk_of_a_node_is_full(hospitals: Hospitals, expected_here: Experiment, tmp_path: Path) -> None:
    hospitals.tries.kill("hungary")
    with small_disk(hospitals.tries.place / "hungary", 32) as disk:
        try:
            hospitals.tries.start_again("hungary")
            found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks, **SETTINGS)
            with almost_full(disk, 2 << 20), pytest.raises(RoundFailed) as caught:
                found.run()
            assert caught.value.codes == {"node"}
            assert "the node's disk does not take it" in str(caught.value)
            found.run()
            assert found.records[-1].nodes == NAMES
            assert_same_end(found, expected_here)
        finally:
            hospitals.tries.kill("hungary")
