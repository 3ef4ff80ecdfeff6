"""A party's connection, over a real hub: what passes, what does not, and what it comes back from."""

import asyncio
from dataclasses import replace

import pytest

from polyclinic.errors import FederationError
from polyclinic.federation.over_nats import event_loop, subjects
from polyclinic.federation.over_nats.connection import Link
from polyclinic.federation.over_nats.identity import KeyPair
from polyclinic.federation.over_nats.subjects import REPLIES, REQUESTS


def linked(identity, use):
    async def run():
        link = Link(identity)
        await link.open()
        try:
            return await asyncio.wait_for(use(link), 60)
        finally:
            await link.close()

    return event_loop.run(run())


def test_what_is_stored_is_there(guys, ada):
    async def answer(link):
        await link.store(subjects.reply("ada", "guys", "r1"), b"update", message_id="m1")

    async def look(link):
        return [await link.stored(REPLIES, subjects.reply("ada", "guys", name)) for name in ("r1", "r2")]

    linked(guys, answer)
    assert linked(ada, look) == [b"update", None]


def test_what_the_hub_forbids_is_an_error(guys):
    async def use(link):
        with pytest.raises(FederationError, match=r"does not let node guys use rep\.ada\.kings\.r1"):
            await link.store("rep.ada.kings.r1", b"")
        await link.ask_desk("hello", {})

    linked(guys, use)


def test_what_is_too_large_is_an_error(guys):
    async def use(link):
        with pytest.raises(FederationError, match=r"2\.1 MB is larger than the hub takes"):
            await link.store("rep.ada.guys.r1", bytes(subjects.MAX_MESSAGE_BYTES + 1))

    linked(guys, use)


def test_a_connection_that_the_library_gives_up_is_made_anew(guys, ada):
    """At an error of the server that it does not know, nats-py closes its client for good."""

    async def use(link):
        heard = asyncio.Queue()

        async def hear(message):
            heard.put_nowait(message.data)

        await link.listen(subjects.from_all("ctl", "guys"), hear)
        pulled = link.pull(REQUESTS, "guys", 5)
        first = link._client
        coming = asyncio.ensure_future(anext(pulled))
        await asyncio.sleep(0)
        await first._process_err("'an error of tomorrow'")
        while link._client is first or not link.connected:
            await asyncio.sleep(0.02)
        researcher = Link(ada)
        await researcher.open()
        await researcher.store(subjects.request("guys", "ada", "r1"), b"train")
        await researcher.tell(subjects.control("guys", "ada"), b"stop")
        await researcher.close()
        message = await coming
        await link.tell(message.reply, b"+ACK")
        assert (message.data, await heard.get()) == (b"train", b"stop")
        await pulled.aclose()

    linked(guys, use)


def test_a_wrong_key_is_told_as_such(guys):
    with pytest.raises(FederationError, match="Authorization Violation") as caught:
        linked(replace(guys, keys=KeyPair.generate()), lambda link: link.ask_desk("hello", {}))
    assert "its key is another one" in caught.value.to_do


def test_a_hub_that_is_not_there(guys):
    async def run():
        await Link(replace(guys, urls=("tls://127.0.0.1:1",))).open(1.0)

    with pytest.raises(FederationError, match=r"no connection to the hub at tls://127\.0\.0\.1:1") as caught:
        event_loop.run(run())
    assert "polyclinic hub status" in caught.value.to_do
