"""Memory that was freed, back to the system."""

from __future__ import annotations

import ctypes
import sys


def give_back_freed() -> None:
    """Has the C library give back what it keeps of freed memory; where it cannot be asked, nothing happens.

    glibc keeps freed blocks of a few MB for the next ones. Between a round's sums and chunks they would pile up to
    another model.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's only
        if trim is not None:
            trim(0)
