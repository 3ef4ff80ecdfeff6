"""Ctrl-C during a run: the first one stops after the batch, the second one at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from polyclinic.errors import Cancelled


@contextmanager
def interrupts_cancel(cancel: Callable[[], None]) -> Iterator[None]:
    """Turns the first Ctrl-C into ``cancel()``, and what comes of it into the KeyboardInterrupt that it was.

    A Ctrl-C that comes too late to stop anything is one all the same: the program may have more to do.
    Does nothing outside the main thread, where no signal can be caught, and where Ctrl-C is ignored (background jobs).
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is signal.SIG_IGN:
        yield
        return
    interrupted = False

    def first(_signal: int, _frame: Any) -> None:
        nonlocal interrupted
        interrupted = True
        signal.signal(signal.SIGINT, before if callable(before) else signal.default_int_handler)
        cancel()

    signal.signal(signal.SIGINT, first)
    try:
        yield
    except Cancelled as err:
        if interrupted:
            raise KeyboardInterrupt(str(err)) from None
        raise
    else:
        if interrupted:
            raise KeyboardInterrupt("it came in the last round, which is complete")
    finally:
        signal.signal(signal.SIGINT, before)
