"""A party's connection to the hub: comes back by itself, and what is said to be delivered has been stored there.

For code in an event loop; `polyclinic.federation.over_nats.event_loop` lets ordinary code use one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from polyclinic.errors import FederationError
from polyclinic.federation.over_nats import subjects
from polyclinic.federation.over_nats.identity import Identity
from polyclinic.federation.over_nats.websocket import require_websocket

log = logging.getLogger("polyclinic.federation")

CONNECT_SECONDS = 10.0
# Nothing is taken for lost before this, on a connection that lives: a chunk may take its time on a slow line.
ANSWER_SECONDS = 60.0
# After which it is asked whether the hub can store at all.
_DOUBT_SECONDS = 5.0
# How long one pull waits at the hub before it is asked anew.
_PULL_SECONDS = 20.0
# Of what is not yet sent while the connection is away; a few chunks.
_PENDING_BYTES = 32 << 20
_PING_SECONDS = 5
# A reload of the server's users cuts connections that are being made with the same words as for a wrong key.
_REFUSALS = 8
_RETRY_SECONDS = 0.5
_FORBIDDEN = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"', re.IGNORECASE)


class Link:
    """One connection. Its methods are coroutines of one event loop."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self._client = Client()
        self._up = asyncio.Event()
        self._lost: asyncio.Future[None] | None = None  # ends when the connection breaks
        self._refused = ""
        self._refusals = 0  # of the key, one after the other
        self._shut_out: FederationError | None = None
        self._opened = False
        self._closing = False
        self._heard: list[tuple[str, Callable[[Msg], Awaitable[None]]]] = []
        self._asking: dict[str, set[asyncio.Future[Any]]] = {}  # by subject, as the server's errors write it
        self._background: asyncio.Task[None] | None = None

    @property
    def connected(self) -> bool:
        return self._up.is_set() and self._shut_out is None

    async def open(self, seconds: float = CONNECT_SECONDS) -> None:
        """Connects; from then on the connection is made again whenever it breaks.

        Raises:
            FederationError: the hub is not there, is not the one whose certificate is pinned, or refuses the key.
        """
        require_websocket(self.identity.urls)
        self._closing, self._refused, self._refusals = False, "", 0
        self._client = Client()
        try:
            await asyncio.wait_for(self._client.connect(**self._options()), seconds)
        except FederationError:
            await self.close()
            raise
        except (OSError, nats.errors.Error, TimeoutError) as err:
            await self.close()
            raise self._unreachable(err) from None
        self._opened = True
        self._set_up()

    def _options(self) -> dict[str, Any]:
        return self.identity.connection_options() | {
            "allow_reconnect": True,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": _RETRY_SECONDS,
            "connect_timeout": 5,
            "ping_interval": _PING_SECONDS,
            "max_outstanding_pings": 3,
            "pending_size": _PENDING_BYTES,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_down,
            "reconnected_cb": self._on_up,
            "closed_cb": self._on_closed,
        }

    def _unreachable(self, err: BaseException) -> FederationError:
        why = self._refused or (str(err) or type(err).__name__)
        if "uthorization" in why:
            to_do = "this party was revoked, or its key is another one: ask the hub's operator for a new invitation"
        elif "ertificate" in why or "SSL" in why:
            to_do = "the hub has another certificate than when you joined: ask its operator, and join again if it is so"
        else:
            to_do = "look whether the hub runs (polyclinic hub status) and whether its port is open from here"
        return FederationError(f"no connection to the hub at {', '.join(self.identity.urls)}: {why}", to_do=to_do)

    async def _on_error(self, err: Exception) -> None:
        why = str(err) or type(err).__name__
        log.debug("%s: connection: %s", self.identity.party_id, why)
        if forbidden := _FORBIDDEN.search(why):
            self._forbid(*forbidden.groups())
            return
        another_hub, refused = "ertificate" in why, "uthorization" in why
        if another_hub and why != self._refused:
            log.error("%s: the hub is not the one of before: %s", self.identity.party_id, why)
        # What comes after a refusal, as a broken pipe, says less.
        if another_hub or refused or not self._refusals:
            self._refused = why
        self._refusals += refused
        if not self._opened and (another_hub or self._refusals == _REFUSALS):
            raise self._unreachable(err)  # out of `open`
        if refused and self._refusals == _REFUSALS:
            self._shut_out = self._unreachable(err)
            log.error("%s: %s", self.identity.party_id, self._shut_out)
            # Whoever waits for the connection wakes up, and sees.
            self._up.set()
            self._background = asyncio.ensure_future(self.close())

    def _forbid(self, what: str, subject: str) -> None:
        """The server does not let this party do this; asking again would not help."""
        log.error("%s: the hub forbids the %s to %s", self.identity.party_id, what.lower(), subject)
        for answer in self._asking.get(subject.casefold(), set()):
            if not answer.done():
                answer.set_exception(
                    FederationError(
                        f"the hub does not let {self.identity.role} {self.identity.party_id} use {subject}",
                        to_do="a party may only speak for itself; if it does, ask the hub's operator whether the hub "
                        "has the same version of Polyclinic",
                    )
                )

    async def _on_down(self) -> None:
        if self._shut_out is not None:
            return
        if self._up.is_set():
            log.warning("%s: the connection to the hub is lost; trying again", self.identity.party_id)
        self._up.clear()
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)

    async def _on_up(self) -> None:
        log.warning("%s: connected to the hub again", self.identity.party_id)
        self._set_up()

    def _set_up(self) -> None:
        self._refused, self._refusals = "", 0
        if self._lost is None or self._lost.done():
            self._lost = asyncio.get_running_loop().create_future()
        self._up.set()

    async def _on_closed(self) -> None:
        if not self._closing and (self._background is None or self._background.done()):
            self._background = asyncio.ensure_future(self._reopen())

    async def _reopen(self) -> None:
        """The library gives a connection up at whatever error the server tells; most of them pass."""
        await self._on_down()
        while not self._closing:
            await asyncio.sleep(_RETRY_SECONDS)
            self._client = Client()
            try:
                await asyncio.wait_for(self._client.connect(**self._options()), CONNECT_SECONDS)
                for subject, heard in self._heard:
                    await self._client.subscribe(subject, cb=heard)
            except (OSError, nats.errors.Error, TimeoutError):
                with suppress(Exception):
                    await asyncio.wait_for(self._client.close(), 2)
            else:
                await self._on_up()
                return

    async def close(self) -> None:
        self._closing = True
        if self._shut_out is None:
            self._up.clear()
        with suppress(Exception):
            await asyncio.wait_for(self._client.close(), 2)

    # ---- saying

    async def tell(self, subject: str, data: bytes = b"", *, reply: str = "", ttl_seconds: int = 0) -> None:
        """Sends without waiting for anybody; lost if nobody listens or the connection is away."""
        if self._up.is_set():
            headers = {"Nats-TTL": f"{ttl_seconds}s"} if ttl_seconds else None
            with suppress(nats.errors.Error):
                await self._client.publish(subject, data, reply=reply, headers=headers)

    async def store(self, subject: str, data: bytes, *, message_id: str = "", ttl_seconds: int = 0) -> None:
        """Sends again and again until the hub has stored it: over broken connections, and a hub that is away.

        Args:
            message_id: what the hub receives twice under one id, it stores once.
            ttl_seconds: after which the hub forgets it; 0: after what its stream says.

        Raises:
            FederationError: the hub refuses it.
        """
        headers = {"Nats-Msg-Id": message_id} if message_id else {}
        if ttl_seconds:
            headers["Nats-TTL"] = f"{ttl_seconds}s"
        while True:
            answer = json.loads((await self.ask(subject, data, headers=headers or None, stores=True)).data)
            if "error" not in answer:
                return
            # 503: the store is not ready yet, as after a restart.
            if answer["error"].get("code") != 503:
                raise FederationError(
                    f"the hub does not store the message: {answer['error'].get('description', 'it does not say why')}",
                    to_do="ask the hub's operator: its disk or a limit may be full (polyclinic hub status)",
                )
            await asyncio.sleep(0.5)

    async def _doubt(self, asking: asyncio.Future[Any]) -> None:
        """Ends what is asked by an error if the hub's disk is full, for then its server is silent."""
        try:
            while not (await self.ask_desk("hello", {})).get("full"):
                await asyncio.sleep(_DOUBT_SECONDS)
            raise FederationError(
                "the disk of the hub is full", to_do="ask its operator to make room; then run() goes on"
            )
        except FederationError as err:
            if not asking.done():
                asking.set_exception(err)

    async def ask(
        self, subject: str, data: bytes = b"", *, headers: dict[str, str] | None = None, stores: bool = False
    ) -> Msg:
        """Sends again and again until there is an answer.

        Args:
            stores: it needs the hub's disk, which may be full.

        Raises:
            FederationError: it is too large, the hub forbids it, has shut this party out, or its disk is full.
        """
        if len(data) > subjects.MAX_MESSAGE_BYTES:
            raise FederationError(f"a message of {len(data) / 1e6:.1f} MB is larger than the hub takes")
        loop = asyncio.get_running_loop()
        forbidden: asyncio.Future[Any] = loop.create_future()
        asking = self._asking.setdefault(subject.casefold(), set())
        asking.add(forbidden)

        def doubt() -> None:
            doubting = asyncio.ensure_future(self._doubt(forbidden))
            forbidden.add_done_callback(lambda _: doubting.cancel())

        silent = loop.call_later(_DOUBT_SECONDS, doubt) if stores else None
        try:
            while True:
                await self._until_up()
                with suppress(nats.errors.Error, TimeoutError):
                    answer = asyncio.ensure_future(
                        self._client.request(subject, data, timeout=ANSWER_SECONDS, headers=headers)
                    )
                    if await self._unless_down(answer, forbidden):
                        return answer.result()
                await asyncio.sleep(0.2)
        finally:
            if silent is not None:
                silent.cancel()
            forbidden.cancel()
            asking.discard(forbidden)
            if not asking:
                self._asking.pop(subject.casefold(), None)

    async def _until_up(self) -> None:
        await self._up.wait()
        if self._shut_out is not None:
            raise self._shut_out

    async def _unless_down(self, answer: asyncio.Future[Any], *others: asyncio.Future[Any]) -> bool:
        """Whether the answer came before the connection broke; raises what one of the others ended with."""
        assert self._lost is not None
        try:
            done, _ = await asyncio.wait((answer, self._lost, *others), return_when=asyncio.FIRST_COMPLETED)
            for other in done.intersection(others):
                other.result()
            return answer in done
        finally:
            if not answer.done():
                answer.cancel()
                # nats-py makes an error of it, which asyncio would print at any time if nobody looked at it.
                answer.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    async def ask_desk(self, verb: str, question: dict[str, Any]) -> dict[str, Any]:
        """What the hub's desk answers.

        Raises:
            FederationError: it refuses.
        """
        subject = subjects.desk(verb, self.identity.party_id)
        answer: dict[str, Any] = json.loads((await self.ask(subject, json.dumps(question).encode())).data)
        if "error" in answer:
            raise FederationError(str(answer["error"]), to_do=str(answer.get("to_do", "")))
        return answer

    async def stored(self, stream: str, subject: str) -> bytes | None:
        """The last message that the hub has stored on exactly this subject."""
        answer = await self.ask(subjects.direct_get(stream, subject))
        return None if _is_status(answer) else answer.data

    # ---- hearing

    async def listen(self, subject: str, heard: Callable[[Msg], Awaitable[None]]) -> None:
        """Has ``heard`` called for each message, one after the other, also after the connection broke."""
        self._heard.append((subject, heard))
        await self._client.subscribe(subject, cb=heard)

    async def pull(self, stream: str, consumer: str, batch: int) -> AsyncIterator[Msg]:
        """The messages of a durable consumer, as they come, without end.

        Raises:
            FederationError: the hub has shut this party out.
        """
        client = self._client
        inbox = client.new_inbox()
        arrived = await client.subscribe(inbox)
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        wish = json.dumps({"batch": batch, "expires": int(_PULL_SECONDS * 1e9)}).encode()
        try:
            while True:
                await self._until_up()
                if client is not self._client:
                    client = self._client
                    arrived = await client.subscribe(inbox)
                await self.tell(subject, wish, reply=inbox)
                left = batch
                while left:
                    message = await self._next(arrived)
                    if message is None:
                        break
                    if _is_status(message):
                        if _status(message) not in ("100", "408", "409", "404"):
                            await asyncio.sleep(0.5)
                        break
                    left -= 1
                    yield message
        finally:
            with suppress(Exception):
                await arrived.unsubscribe()

    async def _next(self, arrived: Any) -> Msg | None:
        """The next message; None if the hub must be asked anew: the connection broke, or the wish has run out."""
        coming = asyncio.ensure_future(arrived.next_msg(timeout=_PULL_SECONDS + 5))
        try:
            return coming.result() if await self._unless_down(coming) else None
        except (nats.errors.Error, TimeoutError):
            return None


def _is_status(message: Msg) -> bool:
    return not message.data and bool(message.headers) and "Status" in (message.headers or {})


def _status(message: Msg) -> str:
    return str((message.headers or {}).get("Status", ""))
