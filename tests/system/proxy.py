"""A TCP proxy between a party and the hub: a bad line, as bad as a test wants it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Self

_PIECE = 16 << 10


class Proxy:
    """Listens at a free port of 127.0.0.1, and passes on to another port there. Use it in a ``with`` statement.

    All may be changed while it runs:

    Args:
        delay: seconds that each piece takes longer, each way.
        rate: bytes a second, each way and connection; None: as fast as it goes.
        held: whether nothing passes, although all stays connected.
        refusing: whether new connections are closed at once.
        passed: bytes so far, both ways.
    """

    def __init__(self, to_port: int) -> None:
        self.to_port = to_port
        self.port = 0
        self.reset()
        self.passed = 0
        self.cuts = 0
        self._cut_at: list[int] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def reset(self) -> None:
        """A good line again."""
        self.delay = 0.0
        self.rate: float | None = None
        self.held = False
        self.refusing = False
        self._cut_at = []

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Breaks all connections."""
        self._loop.call_soon_threadsafe(self._cut)

    def cut_after(self, *counts: int) -> None:
        """Breaks all connections each time so many bytes more have passed than now."""
        self._cut_at = [self.passed + count for count in counts]

    def _call(self, work: object) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)  # type: ignore[arg-type]

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _cut(self) -> None:
        self.cuts += bool(self._writers)
        for writer in self._writers:
            writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.refusing:
                return
            there, back = await asyncio.open_connection("127.0.0.1", self.to_port)
            self._writers |= {writer, back}
            try:
                await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
            finally:
                self._writers -= {writer, back}
                back.transport.abort()
        except (OSError, asyncio.CancelledError):
            pass  # a line that broke, and the end of it all
        finally:
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One way. Pieces overlap in the delay, as they do on a long line, and do not in the rate."""
        late: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)

        async def deliver() -> None:
            while True:
                due, data = await late.get()
                await asyncio.sleep(due - self._loop.time())
                while self.held:
                    await asyncio.sleep(0.02)
                if not data:
                    writer.transport.abort()
                    return
                writer.write(data)
                await writer.drain()

        delivering = asyncio.ensure_future(deliver())
        try:
            while data := await reader.read(_PIECE):
                if self.rate:
                    await asyncio.sleep(len(data) / self.rate)
                self.passed += len(data)
                if self._cut_at and self.passed >= self._cut_at[0]:
                    self._cut_at.pop(0)
                    self._cut()
                    return
                await late.put((self._loop.time() + self.delay, data))
            await late.put((self._loop.time() + self.delay, b""))
            await delivering
        except OSError:
            pass
        finally:
            delivering.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await delivering


def every(seconds: Callable[[], float], do: Callable[[], object]) -> Callable[[], None]:
    """Does something again and again, in a thread; what is returned ends that."""
    end = threading.Event()

    def run() -> None:
        while not end.wait(seconds()):
            do()

    thread = threading.Thread(target=run)
    thread.start()

    def stop() -> None:
        end.set()
        thread.join()

    return stop
