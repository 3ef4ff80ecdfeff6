"""The hub's own service, connected to the server as its administrator: lets parties in and out, and cleans up.

What parties ask (`subjects.desk`), and what is answered, as JSON objects:

============  ==========  ======================================  =============================================
verb          by          question                                answer
============  ==========  ======================================  =============================================
``hello``     both        ``starts``: true once, when a program   ``time`` (seconds since 1970), ``id``, ``role``,
                          starts: what it had taken and not        ``name``, ``hub``, ``max_bytes``, ``full`` (the disk
                                                                  is, and nothing is stored), ``parties``: list
                          acknowledged comes again at once        of ``id``, ``name``, ``key`` of the other role, and
                                                                  of nodes ``heard``: when the desk last heard of it
``chunks``    both        ``sha256`` and: ``experiment``          ``chunks``: the numbers of those that are stored
                          (researcher), or ``researcher`` and
                          ``request`` (node)
``forget``    researcher  ``requests``: ids whose replies are     nothing
                          done with, ``inline`` those of them
                          that have no payload; and, or,
                          ``experiment``: whose payloads, or with
                          ``sha256`` that
============  ==========  ======================================  =============================================

An answer with ``error`` says what was wrong, and with ``code`` of which of our errors it is. Who asks is known by the
subject, which the server guards. The desk is a helper: while it is away, requests and replies flow; only joining and
cleaning up wait.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext
from nats.js.errors import ServerError, ServiceUnavailableError

from polyclinic.errors import HubError, PolyclinicError
from polyclinic.federation.hub import streams
from polyclinic.federation.hub.layout import HubFolder
from polyclinic.federation.hub.parties import Parties, Party
from polyclinic.federation.hub.reload import Reloader
from polyclinic.federation.over_nats import subjects
from polyclinic.federation.over_nats.identity import connection_options, raw_public_key
from polyclinic.federation.over_nats.subjects import Role

log = logging.getLogger("polyclinic.hub")

JANITOR_SECONDS = 60.0
_PATIENCE_SECONDS = 10.0
_PAUSE_SECONDS = 0.1


class Desk:
    """The service of one hub.

    Args:
        hub: its folder.
        parties: its database.
        is_full: whether the server cannot store anything, for its disk is full.
    """

    def __init__(self, hub: HubFolder, parties: Parties, *, is_full: Callable[[], bool] = lambda: False) -> None:
        self._hub = hub
        self._is_full = is_full
        self._settings = hub.settings()
        self._parties = parties
        self._client = Client()
        self._reloader = Reloader(hub, parties)
        self._tasks: set[asyncio.Task[None]] = set()
        self._changing = asyncio.Lock()  # consumers: one that is being made and deleted at once is neither
        self._heard: dict[str, float] = {}  # when a node's last heartbeat came
        self._answers: dict[str, Callable[[Party, dict[str, Any]], Awaitable[dict[str, Any]]]] = {
            "hello": self._hello,
            "chunks": self._chunks,
            "forget": self._forget,
        }
        assert set(self._answers) == set(subjects.DESK_VERBS)

    @property
    def _js(self) -> JetStreamContext:
        return self._client.jetstream(timeout=20)

    async def open(self) -> None:
        """Connects, makes what is missing at the server, and begins to answer."""
        keys = self._hub.admin
        options = connection_options(self._settings.local_urls, self._hub.ca, keys, inbox="_INBOX.desk", name="desk")
        self._client = await nats.connect(
            **options,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.5,
            ping_interval=10,
            reconnected_cb=self._reconnected,
            error_cb=_log_error,
        )
        await self._reloader.open()
        await streams.make_streams(self._js, self._settings)
        await self.bring_up_to_date()
        await self._client.subscribe(f"{subjects.join('x')[:-1]}*", cb=self._in_background(self._on_join))
        await self._client.subscribe("desk.*.*", cb=self._in_background(self._on_question))
        await self._client.subscribe(subjects.heartbeats(), cb=self._on_heartbeat)
        await self._client.subscribe(subjects.REFRESH, cb=self._in_background(self._on_refresh))
        # Whoever is told that the hub runs must find the desk listening.
        await self._client.flush(20)
        self._start(self._keep_clean())

    async def close(self) -> None:
        """Ends the service. The server and all that is stored stay."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._reloader.close()
        await self._client.close()

    async def bring_up_to_date(self) -> None:
        """Makes the server agree with the database: users, consumers, and nothing left of revoked parties.

        Raises:
            HubError: if a server did not take its users.
        """
        await self._reloader.reload()
        async with self._changing:
            await _when_ready(self._set_consumers)
        for party in self._parties.to_sweep():
            if party.role is Role.RESEARCHER:
                await self._withdraw(party.party_id)
            for stream, subject in streams.owned_by(party.role, party.party_id):
                await self._js.purge_stream(stream, subject=subject)
            self._parties.swept(party.party_id)
            log.info("%s %s: revoked, and all that it had here is deleted", party.role, party.party_id)

    async def _withdraw(self, researcher: str) -> None:
        """Puts empty messages in the place of a researcher's requests, so that nodes stop working on them."""
        info = await self._js.stream_info(subjects.REQUESTS, subjects_filter=f"req.*.{researcher}.*")
        for subject in info.state.subjects or {}:
            await self._js.publish(subject, b"", stream=subjects.REQUESTS)

    async def _set_consumers(self) -> None:
        nodes = {party.party_id for party in self._parties.members(Role.NODE)}
        there = set(await streams.consumers(self._js))
        for node_id in sorted(nodes - there):
            await streams.make_consumer(self._js, node_id)
        for node_id in sorted(there - nodes):
            await streams.drop_consumer(self._js, node_id)

    async def _renew_consumer(self, node_id: str) -> None:
        await streams.drop_consumer(self._js, node_id)
        await streams.make_consumer(self._js, node_id)

    # ---- messages

    def _in_background(self, handle: Callable[[Msg], Awaitable[None]]) -> Callable[[Msg], Awaitable[None]]:
        # A subscription hands over one message after the other; joins wait for the server, and need not for each other.
        async def begin(message: Msg) -> None:
            self._start(self._guarded(handle, message))

        return begin

    def _start(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, handle: Callable[[Msg], Awaitable[None]], message: Msg) -> None:
        try:
            await handle(message)
        except PolyclinicError as err:
            log.warning("%s: refused: %s", message.subject, err.what)
            await self._respond(message, {"error": err.what, "to_do": err.to_do, "code": err.code})
        except Exception:
            # One bad message must not end the service for the others.
            log.exception("%s: failed", message.subject)
            await self._respond(message, {"error": "the hub failed to answer", "to_do": "see the log of the hub"})

    async def _respond(self, message: Msg, answer: dict[str, Any]) -> None:
        if message.reply:
            await self._client.publish(message.reply, json.dumps(answer).encode())

    async def _on_join(self, message: Msg) -> None:
        token_id = message.subject.rpartition(".")[2]
        public_key = _text(_object(message.data), "key")
        raw_public_key(public_key)
        party = self._parties.admit(token_id, public_key)
        await self._reloader.reload()
        if party.role is Role.NODE:
            async with self._changing:
                await _when_ready(partial(streams.make_consumer, self._js, party.party_id))
        log.info("%s %s joined with key %s", party.role, party.party_id, public_key)
        await self._respond(message, {"id": party.party_id, "role": party.role, "name": party.name})

    async def _on_question(self, message: Msg) -> None:
        _, verb, party_id = message.subject.split(".")
        party = self._parties.member(party_id)
        if party is None or verb not in self._answers:
            raise HubError(f"no {verb!r} for {party_id!r}")
        await self._respond(message, await self._answers[verb](party, _object(message.data)))

    async def _on_heartbeat(self, message: Msg) -> None:
        self._heard[message.subject.rpartition(".")[2]] = time.time()

    async def _on_refresh(self, message: Msg) -> None:
        await self.bring_up_to_date()
        await self._respond(message, {})

    # ---- answers

    async def _hello(self, party: Party, question: dict[str, Any]) -> dict[str, Any]:
        if question.get("starts") and party.role is Role.NODE:
            # A new consumer delivers at once what the old one waits to be acknowledged.
            async with self._changing:
                await _when_ready(partial(self._renew_consumer, party.party_id))
        other = Role.RESEARCHER if party.role is Role.NODE else Role.NODE
        return {
            "time": time.time(),
            "id": party.party_id,
            "role": party.role,
            "name": party.name,
            "hub": self._settings.name,
            "max_bytes": self._settings.max_disk_bytes,
            "full": self._is_full(),
            "parties": [
                {"id": p.party_id, "name": p.name, "key": p.public_key}
                | ({"heard": self._heard[p.party_id]} if p.party_id in self._heard else {})
                for p in self._parties.members(other)
            ],
        }

    async def _chunks(self, party: Party, question: dict[str, Any]) -> dict[str, Any]:
        sha256 = subjects.token(_text(question, "sha256"))
        if party.role is Role.RESEARCHER:
            stem = f"down.{party.party_id}.{subjects.token(_text(question, 'experiment'))}.{sha256}"
        else:
            to, request = subjects.token(_text(question, "researcher")), subjects.token(_text(question, "request"))
            stem = f"up.{to}.{party.party_id}.{request}.{sha256}"
        info = await self._js.stream_info(subjects.PAYLOADS, subjects_filter=f"{stem}.*")
        return {"chunks": sorted(int(subject.rpartition(".")[2]) for subject in info.state.subjects or {})}

    async def _forget(self, party: Party, question: dict[str, Any]) -> dict[str, Any]:
        me = _researcher(party)
        inline = set(_tokens(question, "inline"))
        for request in _tokens(question):
            await self._js.purge_stream(subjects.REPLIES, subject=f"rep.{me}.*.{request}")
            if request not in inline:
                await self._js.purge_stream(subjects.PAYLOADS, subject=f"up.{me}.*.{request}.>")
        if "experiment" in question:
            rest = f"{subjects.token(_text(question, 'sha256'))}.*" if "sha256" in question else ">"
            experiment = subjects.token(_text(question, "experiment"))
            await self._js.purge_stream(subjects.PAYLOADS, subject=f"down.{me}.{experiment}.{rest}")
        return {}

    # ---- upkeep

    async def _keep_clean(self) -> None:
        """Takes away the users of tokens that were used, or have expired."""
        invited = {invitation.token_id for invitation in self._parties.invitations()}
        while True:
            await asyncio.sleep(JANITOR_SECONDS)
            now = {invitation.token_id for invitation in self._parties.invitations()}
            try:
                if invited - now:
                    await self._reloader.reload()
                invited = now
            except Exception as err:
                log.warning("users of old join tokens are still there: %s", err)

    async def _reconnected(self) -> None:
        # The server may have been started anew, with a configuration of before.
        async def again() -> None:
            try:
                await self.bring_up_to_date()
            except Exception as err:
                log.warning("server came back, but its users may be those of before: %s", err)

        log.info("connected to the server again")
        self._start(again())


async def _when_ready(act: Callable[[], Awaitable[object]]) -> None:
    """Does what changes nothing if it is done twice. The server's store is deaf for a moment whenever users come or go,
    and what was half done then may be in its own way: all of it is done again."""
    until = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            await act()
            return
        except (ServiceUnavailableError, ServerError):
            if time.monotonic() > until:
                raise
            await asyncio.sleep(_PAUSE_SECONDS)


async def _log_error(err: Exception) -> None:
    log.debug("connection of the desk: %s", err)


def _object(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data or b"{}")
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise HubError("the question is no JSON object")
    return found


def _text(question: dict[str, Any], key: str) -> str:
    value = question.get(key)
    if not isinstance(value, str):
        raise HubError(f"the question has no text {key!r}")
    return value


def _tokens(question: dict[str, Any], key: str = "requests") -> list[str]:
    found = question.get(key, [])
    if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
        raise HubError(f"{key!r} is a list of ids")
    return [subjects.token(one) for one in found]


def _researcher(party: Party) -> str:
    if party.role is not Role.RESEARCHER:
        raise HubError("only researchers may ask this")
    return party.party_id
