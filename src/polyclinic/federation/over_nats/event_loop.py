"""The event loop of what talks to the hub: it leaves no connection behind; in a thread, for ordinary code."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class ConnectionLoop(asyncio.SelectorEventLoop):
    """Knows its connections, and can end them.

    nats-py forgets a connection that it could not finish making, and a TLS connection that is closed stays until the
    other side has said its last word too, which one that is frozen or was killed never says.
    """

    def __init__(self) -> None:
        super().__init__()
        self._connections: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()

    async def create_connection(self, *args: Any, **kwargs: Any) -> Any:
        transport, protocol = await super().create_connection(*args, **kwargs)
        self._connections.add(transport)
        return transport, protocol

    async def end_connections(self) -> None:
        """Ends those that still are, at once."""
        for transport in self._connections:
            transport.abort()
        await asyncio.sleep(0)  # sockets are closed in the loop's next turn


def run(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in a `ConnectionLoop`, whose connections it ends."""

    loop = ConnectionLoop()

    async def whole() -> T:
        try:
            return await main
        finally:
            await loop.end_connections()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(whole())


class LoopThread:
    """The loop and its thread; both end at `end`, or with the program."""

    def __init__(self, name: str) -> None:
        self._loop = ConnectionLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def start(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Starts it there."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def run(self, coroutine: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        """Runs it there, and waits for the end.

        Raises:
            TimeoutError: it takes longer.
        """
        future = self.start(coroutine)
        try:
            return future.result(seconds)
        except TimeoutError:
            future.cancel()
            raise

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Has a function called there, and does not wait."""
        self._loop.call_soon_threadsafe(function, *arguments)

    def end(self) -> None:
        """Ends the loop, and what still runs in it."""
        if self._loop.is_closed():
            return
        with suppress(Exception):
            self.run(_cancel_all(), 5)
        with suppress(Exception):
            self.run(self._loop.end_connections(), 5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        if not self._thread.is_alive():
            self._loop.close()


async def _cancel_all() -> None:
    tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
