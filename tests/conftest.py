"""What all tests share."""

import os

# One thread a process: tests run side by side, and threads that wait for each other on busy cores are ten times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")
