"""Peak memory of preparing and of reading, as the number of patients grows; each figure in a process of its own.

    python benchmarks/bench_memory.py [ixi] [isic] [lidc]

IXI and ISIC in their true size, LIDC with scans of 168 x 168 x 165 mm, an eighth of real ones. A figure is what comes
on top of what the process has before its first patient (Linux, glibc). Goals: preparing takes as much for many patients
as for few, and with two workers about twice that; reading takes one sample, however many there are. What was read of
mapped files is told apart: it is the system's cache, which takes it back when memory is short.
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import full_size
from polyclinic.datasets import fed_isic2019, fed_ixi, fed_lidc_idri
from polyclinic.datasets.prepared import Prepared

MODULES = {"ixi": fed_ixi, "isic": fed_isic2019, "lidc": fed_lidc_idri}
RAW: dict[str, Callable[..., Path]] = {
    "ixi": fed_ixi.mock,
    "isic": fed_isic2019.mock,
    "lidc": partial(full_size.lidc, tiles=5, slices=66),
}
PATIENTS = {"ixi": (10, 40), "isic": (10, 40), "lidc": (2, 6)}  # per center


def memory(kind: str) -> float:
    """MB of this process (Linux): "VmRSS" now, "VmHWM" at its peak, "RssAnon" and "RssFile" own and of mapped files."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1]) / 1e3


def measure(name: str, what: str, folder: Path) -> None:
    module = MODULES[name]
    if what == "read":
        data = module.FedClass(pooled=True, data_path=folder / "by-1")
        own_before, mapped_before, own = memory("RssAnon"), memory("RssFile"), 0.0
        for index in range(len(data)):
            sample = data[index]  # kept until it was measured
            own = max(own, memory("RssAnon") - own_before)
            del sample
        print(f"{own:.1f} MB, of mapped files {memory('RssFile') - mapped_before:.1f} MB")
        return
    # What is imported for the first patient is no part of the figure, nor what was freed and not given back.
    module.prepare(folder / "few", folder / "warm", workers=1, show_progress=False)
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak so far is forgotten
    before = memory("VmRSS")
    module.prepare(folder / "many", folder / f"by-{what}", workers=int(what), show_progress=False)
    print(f"{memory('VmHWM') - before:.1f} MB")


def main(names: list[str]) -> None:
    for name in names:
        for patients in PATIENTS[name]:
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place)
                RAW[name](folder / "few", patients_per_center=2)
                RAW[name](folder / "many", patients_per_center=patients)
                figures = {}
                for what in ("1", "2", "read"):
                    command = [sys.executable, __file__, name, what, place]
                    figures[what] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
                number = len(Prepared(folder / "by-1").items)
            print(
                f"{name}, {number} patients: preparing {figures['1']}, with two workers {figures['2']}; "
                f"reading {figures['read']}"
            )


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    else:
        main(sys.argv[1:] or list(MODULES))
