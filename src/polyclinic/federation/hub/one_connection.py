"""A connection for one question: it does not come back when it breaks, and does not take a reload for a refusal.

While a server takes its users anew, it cuts connections that have not said yet who they are, with the same words as for
a wrong key. Where others join at the same moment, a first try may therefore fail for nothing.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import nats.errors
from nats.aio.client import Client

from polyclinic.federation.over_nats.websocket import is_websocket

_WAITS = (0.2, 0.5, 1.0, 2.0)  # seconds between the tries; a server is done with a reload within milliseconds


async def connect_once(options: dict[str, Any], problems: list[Exception] | None = None) -> Client:
    """Connects.

    Args:
        options: as `connection_options` makes them.
        problems: gets the errors on the way, which tell more than the one that is raised.

    Raises:
        OSError, nats.errors.Error, TimeoutError: the server is not there, is another one, or refuses the key each time.
    """
    found: list[Exception] = []

    async def note(err: Exception) -> None:
        found.append(err)

    once: dict[str, Any] = {
        "allow_reconnect": False,
        "connect_timeout": 20,
        "max_reconnect_attempts": 1,
        "reconnect_time_wait": 0.1,
    }
    for wait in (*_WAITS, None):
        client = Client()
        try:
            await client.connect(**options, **once, error_cb=note)
            return client
        except (OSError, nats.errors.Error, TimeoutError) as err:
            # A websocket's session has to be closed; what else is left open ends with the loop, without waiting.
            if is_websocket(options["servers"]):
                with suppress(OSError, nats.errors.Error):
                    await client.close()
            if problems is not None:
                problems[:] = [*found, err]
            if wait is None or not any(map(_may_be_a_reload, [*found, err])):
                raise
            found.clear()
            await asyncio.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _may_be_a_reload(err: Exception) -> bool:
    cut = (ConnectionResetError, BrokenPipeError, ConnectionAbortedError, nats.errors.UnexpectedEOF)
    return isinstance(err, cut) or "authorization" in str(err).casefold() or "empty response" in str(err)
