"""The outer end of a worker process: starting it, asking it, ending it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from io import BufferedReader
from typing import Any, BinaryIO, cast

from polyclinic.errors import MessageError
from polyclinic.messages.message import Message
from polyclinic.messages.requests import Request
from polyclinic.node import sandbox, seccomp
from polyclinic.node.cgroups import Groups
from polyclinic.node.sandbox import Box
from polyclinic.node.sandbox_limits import Watch, group_settings, passed_in
from polyclinic.node.stop import Progress
from polyclinic.node.worker import Frame, load_tensors, progress_in, read_frame, write_frame

log = logging.getLogger("polyclinic.node")

_PIECE_BYTES = 1 << 16
_TAIL_BYTES = 2000
_PAUSE_SECONDS = 0.01  # between pieces of what nobody looks at any more


class WorkerProcess:
    """One worker. Its methods are for one thread at a time, and not for signal handlers.

    Args:
        box: what its plan may see and use; None: all that this process may.
        contained: whether it runs in a sandbox, or has the limits of the box only.
        groups: the node's control groups, for one that bounds it as a whole; None: there are none.

    Raises:
        SandboxError: it was to run in a sandbox or a control group, and none can be made.
    """

    def __init__(self, box: Box | None = None, *, contained: bool = True, groups: Groups | None = None) -> None:
        self._sandbox: int | None = None  # a descriptor of the sandbox's first process
        self.watch: Watch | None = None
        self._box = box
        self._said = bytearray()  # the last of what it printed
        if box is not None and contained:
            sandbox.require()
        self._group = None if box is None or groups is None else groups.make(group_settings(box.resources))
        if box is not None and contained:
            self._process, root = self._contained(box)
        else:
            words = [sys.executable, "-m", "polyclinic.node.worker"]
            words = words if box is None else sandbox.worker_command(box.resources, own_user=False)
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
            self._process = _start(self._entering(words), box, environment)
            root = self.pid
        if box is None:
            return
        threading.Thread(target=self._hear_prints, args=(box.resources.output_mb,), daemon=True).start()
        if root is not None:
            # The sandbox has a process of its own that ends the others.
            own = 2 if contained else 1
            self.watch = Watch(root, own, box.resources, (box.state, box.scratch), self.end_group, self._group)

    def _contained(self, box: Box) -> tuple[subprocess.Popen[bytes], int | None]:
        told, info = os.pipe()
        calls = _as_file(seccomp.program())
        try:
            words = sandbox.command(box, info=info, filter_=calls)
            # Without variables: those of the sandbox's first process can be read in it. A shell adds some.
            words = self._entering(["/usr/bin/env", "-i", *words])
            process = _start(words, box, {}, pass_fds=(info,) if calls is None else (info, calls))
        finally:
            for descriptor in (info, calls):
                if descriptor is not None:
                    os.close(descriptor)
        root = None
        with os.fdopen(told, "rb") as file, suppress(ValueError, KeyError, OSError):
            root = int(json.loads(file.read())["child-pid"])
            self._sandbox = os.pidfd_open(root)
        return process, root

    def _entering(self, words: list[str]) -> list[str]:
        return words if self._group is None else self._group.entering(words)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def over(self) -> str:
        """The limit that it passed, if it was ended for that; to be asked before `kill`."""
        over = "" if self.watch is None else self.watch.over
        if not over and self._group is not None and self._box is not None:
            # The system ends a group at once, and the watch looks a few times a second.
            over = passed_in(self._group, self._box.resources)
        return over

    @property
    def output(self) -> BinaryIO:
        """Where frames come. Without a buffer, so that what has come and is not read yet can be waited for."""
        return cast("BinaryIO", cast("BufferedReader", self._process.stdout).raw)

    @property
    def said(self) -> str:
        """The end of what it printed, where that is held."""
        return self._said.decode(errors="replace").strip()

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
        if self.watch is not None:
            self.watch.stop()
        if self._sandbox is not None:
            os.close(self._sandbox)
            self._sandbox = None
        if self._group is not None:
            self._group.end()
        for stream in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was still to be written has no reader any more
                cast("BinaryIO", stream).close()
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def end_group(self) -> None:
        """Kills the worker and all that it started. May be called from another thread than the one that waits."""
        if self._group is not None:
            self._group.kill()
        if (descriptor := self._sandbox) is not None:
            # The first process of a sandbox takes all others along, whatever they do.
            with suppress(OSError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _hear_prints(self, most_mb: float) -> None:
        """Takes what plans print, which may be patients' values: shown only to who debugs, and not without end."""
        left = int(most_mb * 1e6)
        with cast("BinaryIO", self._process.stderr) as stream, suppress(OSError, ValueError):
            while piece := os.read(stream.fileno(), _PIECE_BYTES):
                if left > 0:
                    self._said += piece
                    del self._said[:-_TAIL_BYTES]
                    log.debug("worker %d prints: %s", self.pid, piece[:left].decode(errors="replace"))
                else:
                    time.sleep(_PAUSE_SECONDS)
                left -= len(piece)


def _start(
    words: list[str], box: Box | None, environment: dict[str, str], *, pass_fds: tuple[int, ...] = ()
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if box is None else subprocess.PIPE,
        env=environment,
        # A Ctrl-C in the terminal is for the experiment, which tells the workers; and what a plan starts is in
        # the worker's process group, so that it ends with the worker.
        start_new_session=True,
        pass_fds=pass_fds,
    )


def _as_file(content: bytes) -> int | None:
    """A descriptor to read this from; None for nothing. A pipe holds it, as it is short."""
    if not content:
        return None
    reader, writer = os.pipe()
    os.write(writer, content)
    os.close(writer)
    return reader
