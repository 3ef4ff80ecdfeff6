"""How long `import polyclinic` and `polyclinic --help` take: the least of several runs.

    python benchmarks/bench_import.py

Goals: under 0.15 s and under 0.4 s.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time


def import_seconds() -> float:
    command = [sys.executable, "-X", "importtime", "-c", "import polyclinic"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found = re.search(r"\|\s+(\d+) \| polyclinic$", ran.stderr, re.MULTILINE)
    assert found
    return int(found[1]) / 1e6


def help_seconds() -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "polyclinic", "--help"], capture_output=True, check=True)
    return time.perf_counter() - began


if __name__ == "__main__":
    print(f"import polyclinic: {min(import_seconds() for _ in range(5)):.3f} s")
    print(f"polyclinic --help: {min(help_seconds() for _ in range(5)):.3f} s")
