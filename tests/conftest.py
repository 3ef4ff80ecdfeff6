"""What all tests share."""

import os

# One thread a process: tests run side by side, and threads that wait for each other on busy cores are ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Pretrained weights are neither looked for nor downloaded, except by the tests that are about them.
os.environ["POLYCLINIC_WEIGHTS"] = "none"

from hypothesis import HealthCheck, settings

# How long drawing an example takes says something of the machine, and nothing of the code.
settings.register_profile("polyclinic", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("polyclinic")
