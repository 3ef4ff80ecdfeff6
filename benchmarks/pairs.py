"""Times two ways of doing the same work in turn, A B A B …, and prints their ratio.

A machine's speed drifts; the ratio of two neighbouring runs does not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def compare(title: str, ours: Callable[[], object], plain: Callable[[], object], *, pairs: int = 7) -> float:
    """Prints the median of both and of the ratios; returns the median ratio."""
    ours(), plain()  # the first run of each pays for caches and imports
    times = [(seconds(ours), seconds(plain)) for _ in range(pairs)]
    ratios = sorted(a / b for a, b in times)
    a, b = (statistics.median(column) for column in zip(*times, strict=True))
    middle = statistics.median(ratios)
    print(
        f"{title}: {a * 1e3:.1f} ms against {b * 1e3:.1f} ms, "
        f"ratio {middle:.3f} (from {ratios[0]:.3f} to {ratios[-1]:.3f}, {pairs} pairs)"
    )
    return middle


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
