"""Ctrl-C that is not lost."""

from __future__ import annotations

import _thread
import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

# Until Python is out of the place where it could not be interrupted.
_SECONDS = 0.05


def keep_ctrl_c() -> None:
    """Has a Ctrl-C come again that Python could not raise.

    One that falls into the callback of a weak reference, or the end of an object, is printed and forgotten otherwise,
    and the program goes on. While modules are imported, many of these are called.
    """
    before = sys.unraisablehook

    def again(told: UnraisableHookArgs) -> None:
        if not issubclass(told.exc_type, KeyboardInterrupt):
            before(told)
            return
        timer = threading.Timer(_SECONDS, _thread.interrupt_main)
        timer.daemon = True
        timer.start()

    sys.unraisablehook = again
