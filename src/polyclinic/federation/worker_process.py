"""The researcher's end of a worker process: starting it, asking it, ending it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader
from typing import Any, BinaryIO, cast

from polyclinic.errors import MessageError
from polyclinic.messages.message import Message
from polyclinic.messages.requests import Request
from polyclinic.node.stop import Progress
from polyclinic.node.worker import Frame, load_tensors, progress_in, read_frame, write_frame


class WorkerProcess:
    """One worker. Its methods are for one thread at a time, and not for signal handlers."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "polyclinic.node.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            # A Ctrl-C in the terminal is for the experiment, which tells the workers; and what a plan starts is in
            # the worker's process group, so that it ends with the worker.
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def output(self) -> BinaryIO:
        """Where frames come. Without a buffer, so that what has come and is not read yet can be waited for."""
        return cast("BinaryIO", cast("BufferedReader", self._process.stdout).raw)

    def ask(self, envelope: dict[str, Any], request: Request | None) -> bool:
        """Sends a frame; False if the worker is gone."""
        try:
            write_frame(cast("BinaryIO", self._process.stdin), envelope, request)
        except OSError:
            return False
        return True

    def hear(self) -> Message | Progress | None:
        """Waits for what the worker says next: how far it is, or its answer, with its tensors; None if it died, or
        wrote what is neither."""
        try:
            frame = self._next_frame()
            return frame and (progress_in(frame) or load_tensors(*frame))
        except (MessageError, OSError, ValueError, TypeError):
            return None

    def answer_frame(self, told: Callable[[Progress], None]) -> Frame | None:
        """Waits for the answer, whose tensors stay in the file that its envelope names; None as above.

        Args:
            told: called with how far the worker is.
        """
        try:
            while frame := self._next_frame():
                if (progress := progress_in(frame)) is None:
                    return frame
                told(progress)
        except (MessageError, OSError, ValueError, TypeError):
            pass
        return None

    def _next_frame(self) -> Frame | None:
        if not self.alive:
            self.end_group()  # else a process that a plan had started could hold the pipe open
        return read_frame(self.output)

    def kill(self) -> str:
        """Ends the worker and all that it started; says how it had ended, for a reader."""
        self.end_group()
        code = self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was still to be written has no reader any more
                cast("BinaryIO", stream).close()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def end_group(self) -> None:
        """Kills the worker and all that it started. May be called from another thread than the one that waits."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
