"""A full disk at the hub. A server that could not write does not store again in that stream, also when there is room,
and says nothing to who publishes. So its log is read, parties that ask are told, and it is started anew when there is
room.
"""

from __future__ import annotations

import asyncio
import logging
import re
import shutil
from pathlib import Path

from polyclinic.federation.hub.server import Server

log = logging.getLogger("polyclinic.hub")

_LOOK_SECONDS = 1.0
_ROOM_BYTES = 64 << 20
_COMPLAINT = re.compile(rb"no space left on device|critical write error|out of (disk )?space", re.IGNORECASE)


class DiskWatch:
    """Watches over the disk of one server.

    Args:
        server: started.
        folder: where it runs, with its store and its log.

    Attributes:
        is_full: whether the server has failed to store something, and was not started anew since.
    """

    def __init__(self, server: Server, folder: Path) -> None:
        self._server = server
        self._folder = folder
        self._log = folder / "server.log"
        self._read = self._log.stat().st_size if self._log.exists() else 0
        self.is_full = False

    async def run(self) -> None:
        """Watches without end."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            try:
                await self._look()
            except OSError as err:
                log.warning("the disk of the hub cannot be looked at: %s", err)

    async def _look(self) -> None:
        if self._complains() and not self.is_full:
            self.is_full = True
            log.error(
                "the server cannot write: make room on the disk of %s; nothing is stored until then", self._folder
            )
        found = shutil.disk_usage(self._folder / "store")
        if self.is_full and found.free > min(_ROOM_BYTES, found.total // 10):
            log.warning("there is room on the disk; the server is started anew")
            await self._server.restart()
            self._complains()
            self.is_full = False

    def _complains(self) -> bool:
        """Whether the log has a complaint since it was looked at last."""
        size = self._log.stat().st_size
        start = self._read if size >= self._read else 0  # the server begins a new file when one is large
        self._read = size
        if size == start:
            return False
        with self._log.open("rb") as file:
            file.seek(start)
            return bool(_COMPLAINT.search(file.read(size - start)))
