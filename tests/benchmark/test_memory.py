from __future__ import annotations

import subprocess
import sys

import pytest

from polyclinic.benchmark.memory import peak_memory

MEGABYTE = 1 << 20

PROGRAM = """
from polyclinic.benchmark.memory import peak_memory, reset_peak_memory
found = [peak_memory()]
for size in (200, 50):
    reset_peak_memory()
    block = bytearray(size << 20)
    block[::4096] = b"x" * len(block[::4096])
    del block
    found.append(peak_memory())
print(*found)
"""


def test_the_peak_is_at_least_what_is_held():
    held = bytearray(100 * MEGABYTE)
    held[::4096] = b"x" * len(held[::4096])
    assert peak_memory() > 100 * MEGABYTE
    assert peak_memory() < 1 << 45  # bytes, not thousands of them


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets the peak begin anew")
def test_the_peak_begins_anew():
    ran = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, encoding="utf-8", check=True)
    before, large, small = (int(number) for number in ran.stdout.split())
    assert before + 150 * MEGABYTE < large
    assert before + 30 * MEGABYTE < small < large - 100 * MEGABYTE
