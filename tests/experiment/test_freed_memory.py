"""What was freed goes back to the system."""

import platform
import sys
from pathlib import Path

import pytest

from polyclinic.experiment.freed_memory import give_back_freed


def own_megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc keeps what is freed")
def test_freed_blocks_between_others_are_given_back():
    give_back_freed()  # else what earlier tests left is used first
    before = own_megabytes()
    blocks = [bytearray(b"x") * 60_000 for _ in range(2000)]
    kept = blocks[::20]  # else the heap's end could be given back by itself
    del blocks
    assert own_megabytes() > before + 80
    give_back_freed()
    assert own_megabytes() < before + 40
    assert len(kept) == 100
