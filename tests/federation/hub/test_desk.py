"""What the desk answers, asked over the real server."""

import asyncio
import json
import time
from contextlib import AsyncExitStack

import pytest

from polyclinic.federation.over_nats import event_loop, subjects
from polyclinic.federation.over_nats.subjects import PAYLOADS, REPLIES, REQUESTS, Role


async def ask(party, verb, question=None, *, raw=None):
    body = json.dumps(question or {}).encode() if raw is None else raw
    return json.loads((await party.client.request(subjects.desk(verb, party.identity.party_id), body, timeout=20)).data)


async def stored(party, stream, subject):
    answer = await party.client.request(subjects.direct_get(stream, subject), b"", timeout=20)
    return None if answer.headers and answer.headers.get("Status") == "404" else answer.data


def test_hello_tells_the_time_and_the_keys_of_the_other_side(hub, guys, kings, ada, party):
    async def run():
        async with party(guys) as node, party(ada) as researcher:
            before = time.time()
            to_node, to_researcher = await ask(node, "hello"), await ask(researcher, "hello")
            assert before - 1 < to_node["time"] < time.time() + 1
            assert (to_node["id"], to_node["role"], to_node["name"]) == ("guys", "node", "Guys")
            assert {"id": "ada", "name": "Ada", "key": ada.keys.public_key} in to_node["parties"]
            keys = {one["id"]: one["key"] for one in to_researcher["parties"]}
            assert keys == {"guys": guys.keys.public_key, "kings": kings.keys.public_key}
            assert to_researcher["max_bytes"] == hub.folder.settings().max_disk_bytes

    event_loop.run(run())


def test_a_request_that_was_taken_comes_again_when_its_node_starts_anew(guys, ada, party):
    async def run():
        async with party(guys) as node, party(ada) as researcher:
            await researcher.client.jetstream().publish(subjects.request("guys", "ada", "r1"), b"train")
            pull = await node.client.jetstream().pull_subscribe_bind(consumer="guys", stream=REQUESTS)
            [first] = await pull.fetch(1, timeout=20)
            assert (first.subject, first.data) == ("req.guys.ada.r1", b"train")
        async with party(guys) as node:
            await ask(node, "hello", {"starts": True})
            pull = await node.client.jetstream().pull_subscribe_bind(consumer="guys", stream=REQUESTS)
            [again] = await pull.fetch(1, timeout=10)  # the first would be delivered again after 30 s only
            assert again.data == b"train"
            await again.in_progress()
            await again.ack_sync(20)
            info = await pull.consumer_info()
            assert (info.num_pending, info.num_ack_pending) == (0, 0)

    event_loop.run(run())


def test_questions_are_answered_while_others_join(hub, guys, kings, party):
    """Whenever users come, the server's store is deaf for a moment."""

    async def run():
        async with party(guys) as one, party(kings) as other:
            inviting = asyncio.gather(*(asyncio.to_thread(hub.invite, Role.NODE, f"New {n}") for n in range(8)))
            answers = []
            while not inviting.done():
                answers += await asyncio.gather(*(ask(node, "hello", {"starts": True}) for node in (one, other)))
            await inviting
            assert [answer for answer in answers if "error" in answer] == []
            assert answers

    event_loop.run(run())


def test_chunks_names_those_that_arrived_and_forget_deletes_only_ones_own(guys, ada, bob, party):
    async def run():
        async with AsyncExitStack() as stack:
            node, first, second = [await stack.enter_async_context(party(who)) for who in (guys, ada, bob)]
            for who in (first, second):
                for chunk in (0, 1, 3):
                    subject = subjects.down(who.identity.party_id, "e1", "abc", chunk)
                    await who.client.jetstream().publish(subject, b"%d" % chunk)
            assert await ask(first, "chunks", {"experiment": "e1", "sha256": "abc"}) == {"chunks": [0, 1, 3]}
            assert await ask(first, "chunks", {"experiment": "e2", "sha256": "abc"}) == {"chunks": []}
            assert await stored(node, PAYLOADS, "down.ada.e1.abc.3") == b"3"
            assert await ask(first, "forget", {"experiment": "e1", "sha256": "abc"}) == {}
            assert await ask(first, "chunks", {"experiment": "e1", "sha256": "abc"}) == {"chunks": []}
            assert await ask(second, "chunks", {"experiment": "e1", "sha256": "abc"}) == {"chunks": [0, 1, 3]}
            assert await stored(node, PAYLOADS, "down.ada.e1.abc.3") is None
            assert await ask(second, "forget", {"experiment": "e1"}) == {}
            assert await ask(second, "chunks", {"experiment": "e1", "sha256": "abc"}) == {"chunks": []}

    event_loop.run(run())


def test_a_reply_and_its_payload_stay_until_they_are_forgotten(guys, ada, bob, party):
    async def run():
        async with party(guys) as node, party(ada) as researcher, party(bob) as other:
            js = node.client.jetstream()
            heard = await researcher.client.subscribe(subjects.from_all("rep", "ada"))
            await researcher.client.flush()
            await js.publish(subjects.up("ada", "guys", "r7", "fff", 0), b"update")
            await js.publish(subjects.reply("ada", "guys", "r7"), b"done")
            assert (await heard.next_msg(20)).data == b"done"
            asked = {"researcher": "ada", "request": "r7", "sha256": "fff"}
            assert await ask(node, "chunks", asked) == {"chunks": [0]}
            assert await ask(other, "forget", {"requests": ["r7"]}) == {}
            assert await stored(researcher, REPLIES, "rep.ada.guys.r7") == b"done"
            assert await stored(researcher, PAYLOADS, "up.ada.guys.r7.fff.0") == b"update"
            assert await ask(researcher, "forget", {"requests": ["r7"]}) == {}
            assert await stored(researcher, REPLIES, "rep.ada.guys.r7") is None
            assert await stored(researcher, PAYLOADS, "up.ada.guys.r7.fff.0") is None

    event_loop.run(run())


@pytest.mark.parametrize(
    ("verb", "body", "says"),
    [
        ("hello", b"\xff\x00", "no JSON object"),
        ("hello", b"[]", "no JSON object"),
        ("chunks", b"{}", "no text 'sha256'"),
        ("chunks", b'{"sha256": "a.*", "experiment": "e"}', "cannot be part of a subject"),
        ("chunks", b'{"sha256": "a", "experiment": "*"}', "cannot be part of a subject"),
        ("forget", b'{"requests": "r1"}', "list of ids"),
        ("forget", b'{"requests": [">"]}', "cannot be part of a subject"),
        ("dance", b"{}", "no 'dance'"),
    ],
    ids=range(8),
)
def test_a_bad_question_is_told_what_is_wrong(ada, party, verb, body, says):
    async def run():
        async with party(ada) as researcher:
            answer = await ask(researcher, verb, raw=body)
            assert says in answer["error"]
            assert (await ask(researcher, "hello"))["id"] == "ada"

    event_loop.run(run())


def test_a_node_cannot_forget(guys, party):
    async def run():
        async with party(guys) as node:
            assert "only researchers" in (await ask(node, "forget", {"requests": []}))["error"]

    event_loop.run(run())


def test_a_heartbeat_is_seen_and_forgotten_when_it_stops(guys, ada, party):
    async def run():
        async with party(guys) as node, party(ada) as researcher:
            seen = await researcher.client.subscribe(subjects.heartbeats())
            await researcher.client.flush()
            await node.client.jetstream().publish(subjects.heartbeat("guys"), b"here")
            assert (await seen.next_msg(20)).data == b"here"
            assert await stored(researcher, subjects.NODES, subjects.heartbeat("guys")) == b"here"
            while await stored(researcher, subjects.NODES, subjects.heartbeat("guys")) is not None:
                await asyncio.sleep(0.5)

    event_loop.run(asyncio.wait_for(run(), 60))
