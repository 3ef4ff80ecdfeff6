"""Clocks that are an hour off: one node's ahead, the other's behind.

A small library that is loaded before the C library shifts what the node's processes take for the time of day, all of
it: Python's, TLS's and the file locks'. The clock of the machine, the hub's and the researcher's stay as they are.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from polyclinic import Experiment
from polyclinic.federation.try_out import TryOut
from tests.system.hospitals import NODES, OPEN, Hospitals, assert_same_end, experiment, in_background

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("cc") is None, reason="needs a C compiler and LD_PRELOAD"
)

HOUR = 3600
SHIFTED = {NODES[0]: HOUR, NODES[1]: -HOUR}

LIBRARY = r"""
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static time_t shift(void) { return atol(getenv("SHIFTED_SECONDS")); }

int clock_gettime(clockid_t which, struct timespec *at) {
    int failed = syscall(SYS_clock_gettime, which, at);
    if (!failed && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE)) at->tv_sec += shift();
    return failed;
}
int gettimeofday(struct timeval *restrict at, void *restrict zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    at->tv_sec = now.tv_sec;
    at->tv_usec = now.tv_nsec / 1000;
    return 0;
}
time_t time(time_t *at) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at) *at = now.tv_sec;
    return now.tv_sec;
}
"""


class Shifted(TryOut):
    """Each node has a clock of its own."""

    library = Path()

    def environment(self, name: str) -> dict[str, str]:
        """With the library, for nodes."""
        found = super().environment(name)
        if name in SHIFTED:
            found |= {"LD_PRELOAD": str(self.library), "SHIFTED_SECONDS": str(SHIFTED[name])}
        return found


@pytest.fixture(scope="module")
def shifted(tmp_path_factory: pytest.TempPathFactory) -> Shifted:
    folder = tmp_path_factory.mktemp("clocks")
    source, Shifted.library = folder / "shift.c", folder / "shift.so"
    source.write_text(LIBRARY)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(Shifted.library), str(source)], check=True)
    return Shifted(folder, policy=OPEN)


def test_clocks_an_hour_off(shifted: Shifted, expected: Experiment, tmp_path: Path) -> None:
    with Hospitals(shifted.folder, shifted) as hospitals:
        hospitals.restore()
        found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks)
        found.run_round()
        # What is asked twice is known, whatever the clock says.
        hospitals.wait(True)
        end = in_background(found.run)
        hospitals.training()
        shifted.kill(NODES[1])
        hospitals.wait(False)
        shifted.start_again(NODES[1])
        assert end() is None
        assert_same_end(found, expected)
        for node, seconds in SHIFTED.items():
            assert abs(hospitals.status(node).started - time.time() - seconds) < HOUR / 4
