"""Peak memory of preparing and of reading ISIC images, as their number grows; each figure in a process of its own.

    python benchmarks/bench_memory.py

One worker. Goal: neither grows with the number of images.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from polyclinic.datasets import fed_isic2019


def peak_bytes() -> int:
    """The process's peak resident memory so far, mapped files included (Linux)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found
    return int(found[1]) * 1024


def measure(what: str, folder: Path) -> None:
    if what == "prepare":
        # What is imported at the first image is no part of the figure.
        fed_isic2019.prepare(folder / "few", folder / "warm", workers=1, show_progress=False)
        before = peak_bytes()
        fed_isic2019.prepare(folder / "many", folder / "prepared", workers=1, show_progress=False)
    else:
        data = fed_isic2019.FedIsic2019(pooled=True, data_path=folder / "prepared")
        data[0]
        before = peak_bytes()
        for index in range(len(data)):
            data[index]
    print((peak_bytes() - before) / 1e6)


def main() -> None:
    for patients in (10, 40):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            fed_isic2019.mock(folder / "few", patients_per_center=3, seed=0)
            fed_isic2019.mock(folder / "many", patients_per_center=patients, seed=1)
            figures = {}
            for what in ("prepare", "read"):
                command = [sys.executable, __file__, what, name]
                ran = subprocess.run(command, capture_output=True, text=True, check=True)
                figures[what] = float(ran.stdout)
            listed = ", ".join(f"{what} {value:.1f} MB" for what, value in figures.items())
            print(f"{patients * 6} images of 600 x 450: peak over that of a few: {listed}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
