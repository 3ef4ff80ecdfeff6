"""What all tests share."""

import os
import signal

# A shell starts what runs in the background with Ctrl-C ignored, and what ignores it cannot be tested with it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One thread a process: tests run side by side, and threads that wait for each other on busy cores are ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Pretrained weights are neither looked for nor downloaded, except by the tests that are about them.
os.environ["POLYCLINIC_WEIGHTS"] = "none"

from hypothesis import HealthCheck, settings

# How long drawing an example takes says something of the machine, and nothing of the code.
settings.register_profile("polyclinic", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("polyclinic")
