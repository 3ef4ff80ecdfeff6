"""Someone else's dataset may ask a question, as FLamby's licence prompt does; at a node nobody can answer it."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from polyclinic.errors import DatasetError

_lock = threading.Lock()
_depth = 0  # of calls in all threads, since standard input is the process's
_real: TextIO | None = None
_asking = threading.local()


class _Nobody(io.TextIOBase):
    """Raises where a program would wait. Not an end of file: a loop that asks again would never end."""

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> str:  # noqa: ARG002
        module = getattr(_asking, "module", "the dataset's module")
        raise DatasetError(
            f"{module} asks a question at the keyboard, where nobody sits at a node; perhaps whether you accept the "
            "data's licence",
            to_do=f'answer it once yourself, with  python -c "import {module} as m; m.FedClass()"  in a terminal, '
            "then do this again",
        )

    def readline(self, size: int | None = -1, /) -> Any:
        return self.read(size)


@contextmanager
def nobody_at_the_keyboard(module: str) -> Iterator[None]:
    """While it lasts, whoever reads from standard input gets a DatasetError that names ``module``, and never waits."""
    global _depth, _real
    with _lock:
        if _depth == 0:
            _real, sys.stdin = sys.stdin, _Nobody()
        _depth += 1
    before = getattr(_asking, "module", None)
    _asking.module = module
    try:
        yield
    finally:
        _asking.module = before
        with _lock:
            _depth -= 1
            if _depth == 0:
                sys.stdin = _real
