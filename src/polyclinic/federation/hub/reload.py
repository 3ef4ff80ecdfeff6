"""Gives the servers their users anew, while they run.

Servers read their files again when the system account asks them to, wherever they run; those whose user is gone, or may
do something else now, are disconnected by the server. Calls that come while one is under way share the next one: fifty
parties that join at once are two reloads.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import nats
from nats.aio.client import Client

from polyclinic.errors import HubError
from polyclinic.federation.hub.config import write_server_configs
from polyclinic.federation.hub.layout import HubFolder
from polyclinic.federation.hub.parties import Parties
from polyclinic.federation.over_nats.identity import connection_options

log = logging.getLogger("polyclinic.hub")

_FIND_SECONDS = 2.0  # for the servers of a cluster, of which one may be away
_FIRST_SECONDS = 20.0  # for the first to answer
_RELOAD_SECONDS = 20.0
_GATHER_SECONDS = 0.1


class Reloader:
    """One connection of the system account.

    Args:
        hub: the folder whose ``server`` the servers read.
        parties: who is to be a user.
    """

    def __init__(self, hub: HubFolder, parties: Parties) -> None:
        self._hub = hub
        self._parties = parties
        self._client = Client()
        self._lock = asyncio.Lock()
        self._next: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connects."""
        self._client = await system_connection(self._hub)

    async def close(self) -> None:
        """Ends the connection."""
        await self._client.close()

    async def reload(self) -> None:
        """Writes the configuration, and returns when all servers that were found have taken it.

        Raises:
            HubError: if one of them refuses, or none was found.
        """
        if self._next is None:
            self._next = asyncio.create_task(self._take_turn())
        await asyncio.shield(self._next)

    async def _take_turn(self) -> None:
        async with self._lock:
            # Those that come at almost the same moment share this turn: a reload cuts connections that are being made.
            await asyncio.sleep(_GATHER_SECONDS)
            # From here on, what others have changed may not be seen any more: they wait for the next turn.
            self._next = None
            await asyncio.to_thread(write_server_configs, self._hub, self._parties)
            servers = await self._servers()
            if not servers:
                raise HubError("no server answers", to_do="see whether it runs: polyclinic hub status")
            await asyncio.gather(*map(self._reload_one, servers))

    async def _reload_one(self, server_id: str) -> None:
        answer = await self._client.request(f"$SYS.REQ.SERVER.{server_id}.RELOAD", b"", timeout=_RELOAD_SECONDS)
        if error := json.loads(answer.data).get("error"):
            raise HubError(f"server {server_id} refuses its users: {error.get('description')}")

    async def _servers(self) -> list[str]:
        found = await ask_all(self._client, "PING", expected=self._hub.settings().cluster)
        return [answer["server"]["id"] for answer in found]


async def system_connection(hub: HubFolder) -> Client:
    """A connection of the system account, which comes back by itself."""
    options = connection_options(
        hub.settings().local_urls, hub.ca, hub.system, inbox="_INBOX.system", name="desk, system account"
    )
    return await nats.connect(**options, max_reconnect_attempts=-1, reconnect_time_wait=0.5, error_cb=_ignore)


async def ask_all(
    client: Client, what: str, question: dict[str, Any] | None = None, *, expected: int = 1
) -> list[dict[str, Any]]:
    """What each server says to a question of the system account, of as many as expected, or those that do in time."""
    inbox = client.new_inbox()
    subscription = await client.subscribe(inbox)
    answers: list[dict[str, Any]] = []
    try:
        await client.publish(f"$SYS.REQ.SERVER.{what}", json.dumps(question or {}).encode(), reply=inbox)
        async with asyncio.timeout(_FIRST_SECONDS) as patience:
            while len(answers) < expected:
                answers.append(json.loads((await subscription.next_msg(timeout=None)).data))
                patience.reschedule(asyncio.get_running_loop().time() + _FIND_SECONDS)
    except TimeoutError:
        pass
    finally:
        await subscription.unsubscribe()
    return answers


async def _ignore(err: Exception) -> None:
    log.debug("connection of the system account: %s", err)
