"""polyclinic try-federation as a whole program: it ends well, and nothing is left of it, also after Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


def start(folder: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "polyclinic", "try-federation", *options],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def left(folder: Path) -> list[str]:
    """Files, and processes that have to do with the folder."""
    found = [str(path) for path in folder.glob("polyclinic-*")]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            if str(folder) in words or str(process.joinpath("cwd").readlink()).startswith(str(folder)):
                found.append(words)
    return found


def test_it_runs_a_federation_and_stops_it(tmp_path: Path) -> None:
    with start(tmp_path, "--rounds", "1") as program:
        out, _ = program.communicate()
    assert program.returncode == 0, out
    assert "4 nodes have joined" in out
    assert "1 round in" in out
    assert "test accuracy" in out
    assert out.rstrip().splitlines()[-1].startswith("Next, for real: polyclinic hub start")
    assert "Traceback" not in out
    assert left(tmp_path) == []


def test_ctrl_c_stops_it_all(tmp_path: Path) -> None:
    with start(tmp_path) as program:
        assert program.stdout is not None
        said = ""
        while "nodes have joined" not in said:
            line = program.stdout.readline()
            assert line, said
            said += line
        assert len(left(tmp_path)) > 5
        # As in a terminal, where the whole group gets it.
        os.killpg(program.pid, signal.SIGINT)
        said += program.stdout.read()
    assert program.returncode == 130, said
    assert "Traceback" not in said
    assert left(tmp_path) == []
