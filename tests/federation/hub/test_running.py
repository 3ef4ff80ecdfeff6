"""Whole hubs in processes: kills, restarts, revocation, many parties at once."""

import asyncio
import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import nats
import nats.errors
import pytest

from polyclinic.errors import HubError
from polyclinic.federation.hub import running
from polyclinic.federation.hub.joining import join
from polyclinic.federation.hub.running import configure, pid_of, refresh, stop
from polyclinic.federation.hub.status import look
from polyclinic.federation.over_nats import event_loop, subjects
from polyclinic.federation.over_nats.identity import KeyPair
from polyclinic.federation.over_nats.subjects import REPLIES, REQUESTS, Role

HOUR = timedelta(hours=1)


def stored(identity, stream, subject, party):
    async def run():
        async with party(identity) as one:
            answer = await one.client.request(subjects.direct_get(stream, subject), b"", timeout=20)
            return None if answer.headers and answer.headers.get("Status") == "404" else answer.data

    return event_loop.run(run())


def publish(identity, subject, data, party):
    async def run():
        async with party(identity) as one:
            await one.client.jetstream().publish(subject, data, timeout=20)

    event_loop.run(run())


def fetch(identity, party):
    """What a node is given to do; acknowledged."""

    async def run():
        async with party(identity) as one:
            await one.client.request(subjects.desk("hello", identity.party_id), b'{"starts": true}', timeout=20)
            pull = await one.client.jetstream().pull_subscribe_bind(consumer=identity.party_id, stream=REQUESTS)
            [message] = await pull.fetch(1, timeout=20)
            await message.ack_sync(20)
            return message.subject, message.data

    return event_loop.run(run())


def test_a_restart_keeps_parties_requests_and_replies(fresh_hub, tmp_path, party):
    fresh_hub.start()
    node, researcher = (
        fresh_hub.join("node", "Guys", tmp_path / "n"),
        fresh_hub.join("researcher", "Ada", tmp_path / "r"),
    )
    publish(researcher, "req.guys.ada.r1", b"train", party)
    publish(node, "rep.ada.guys.r0", b"update", party)
    authority = fresh_hub.folder.ca
    fresh_hub.stop()
    assert pid_of(fresh_hub.folder) is None
    fresh_hub.start()
    assert fresh_hub.folder.ca == authority
    assert fetch(node, party) == ("req.guys.ada.r1", b"train")
    assert stored(researcher, REPLIES, "rep.ada.guys.r0", party) == b"update"


def test_a_killed_hub_leaves_no_server_and_comes_back_with_its_store(fresh_hub, tmp_path, party, alive, until):
    fresh_hub.start()
    node, researcher = (
        fresh_hub.join("node", "Guys", tmp_path / "n"),
        fresh_hub.join("researcher", "Ada", tmp_path / "r"),
    )
    publish(researcher, "req.guys.ada.r1", b"train", party)
    server = fresh_hub.server_pid()
    fresh_hub.kill()
    fresh_hub.start()  # at once: it waits until the old server is gone
    until(lambda: not alive(server), "the end of the old server")
    assert fetch(node, party) == ("req.guys.ada.r1", b"train")


def test_a_killed_server_is_started_again_and_the_desk_answers(fresh_hub, tmp_path, party, until):
    fresh_hub.start()
    researcher = fresh_hub.join("researcher", "Ada", tmp_path / "r")
    publish(researcher, "req.guys.ada.r1", b"train", party)
    server = fresh_hub.server_pid()
    os.kill(server, signal.SIGKILL)
    until(lambda: fresh_hub.server_pid() != server, "another server")
    until(lambda: "connected to the server again" in fresh_hub.said(), "the desk's return")
    until(lambda: event_loop.run(refresh(fresh_hub.folder)), "an answer of the desk")
    # The request was stored before its node had joined, and is there when it has.
    assert fetch(fresh_hub.join("node", "Guys", tmp_path / "n"), party) == ("req.guys.ada.r1", b"train")


def test_revoke_cuts_an_open_connection_and_shuts_out(hub, guys, ada, tmp_path, party):
    identity = hub.join("node", "Rogue", tmp_path)
    publish(ada, "req.rogue.ada.r1", b"secret", party)
    publish(identity, "rep.ada.rogue.r0", b"old", party)

    async def run():
        cut = asyncio.Event()

        async def closed():
            cut.set()

        async def quiet(_):
            pass

        options = identity.connection_options() | {"allow_reconnect": False, "error_cb": quiet}
        client = await nats.connect(**options, closed_cb=closed)
        async with party(guys) as bystander:
            hub.parties.revoke("Rogue")
            assert await refresh(hub.folder)
            await asyncio.wait_for(cut.wait(), 30)
            assert client.is_closed
            with pytest.raises((nats.errors.Error, OSError)):
                await nats.connect(**options, max_reconnect_attempts=1, reconnect_time_wait=0.1)
            assert bystander.client.is_connected
        return await look(hub.folder)

    seen = event_loop.run(run())
    assert "rogue" not in seen.queues
    assert stored(ada, REPLIES, "rep.ada.rogue.r0", party) is None
    again = hub.join("node", "Rogue", tmp_path / "again")
    assert again.keys != identity.keys
    publish(ada, "req.rogue.ada.r2", b"new", party)
    assert fetch(again, party) == ("req.rogue.ada.r2", b"new")


def test_a_wrong_key_does_not_get_in(hub, guys, party):
    async def run():
        with pytest.raises((nats.errors.Error, OSError), match=r"(?i)authorization"):
            async with party(replace(guys, keys=KeyPair.generate())):
                pass

    event_loop.run(run())


def test_a_connection_without_tls_or_key_gets_nothing(hub):
    with socket.create_connection(("127.0.0.1", hub.port), 10) as plain:
        plain.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        answer = plain.recv(1000)
    assert b"PONG" not in answer
    assert b"INFO" not in answer


def test_a_message_that_is_too_large_is_refused_and_the_others_go_on(hub, guys, ada, party):
    async def run():
        async with party(ada) as one:
            with pytest.raises(nats.errors.MaxPayloadError):
                await one.client.publish("req.guys.ada.big", bytes(subjects.MAX_MESSAGE_BYTES + 1))
            await one.client.jetstream().publish("req.guys.ada.r9", b"small", timeout=20)

    event_loop.run(run())
    assert fetch(guys, party) == ("req.guys.ada.r9", b"small")


def test_fifty_parties_join_at_once(fresh_hub, tmp_path, party):
    fresh_hub.start()
    tokens = [fresh_hub.parties.invite(Role.NODE, f"Hospital {i}", HOUR) for i in range(50)]
    assert event_loop.run(refresh(fresh_hub.folder))
    with ThreadPoolExecutor(50) as pool:
        joined = [*pool.map(lambda token: join(token, tmp_path / token.party_id), tokens)]
    assert len({one.keys.public_key for one in joined}) == 50

    async def connected():
        for one in joined[::7]:
            async with party(one) as node:
                await node.client.request(subjects.desk("hello", one.party_id), b"", timeout=20)
        return await look(fresh_hub.folder)

    seen = event_loop.run(connected())
    assert set(seen.queues) == {f"hospital-{i}" for i in range(50)}
    assert [one.public_key for one in fresh_hub.parties.members()] == [
        one.keys.public_key for one in sorted(joined, key=lambda one: one.party_id)
    ]


def test_a_second_hub_in_the_folder_is_refused(hub):
    with pytest.raises(HubError, match="runs already"):
        event_loop.run(running.run(hub.folder))
    with pytest.raises(HubError, match=r"runs\n.*stop it before"):
        configure(hub.folder, port=1234)
    assert pid_of(hub.folder) == hub.process.pid


def test_a_port_that_is_taken_is_told(fresh_hub):
    with socket.socket() as other:
        other.bind(("127.0.0.1", fresh_hub.port))
        other.listen()
        with pytest.raises(AssertionError, match=r"the server did not start: .*address already in use"):
            fresh_hub.start()
    assert fresh_hub.process.wait(30) == 1


def test_stop_ends_the_process(fresh_hub, alive):
    fresh_hub.start()
    server = fresh_hub.server_pid()
    assert stop(fresh_hub.folder)
    assert fresh_hub.process.wait(30) == 0
    assert not alive(server)
    assert not stop(fresh_hub.folder)


def test_ctrl_c_stops_cleanly_and_keeps_settings(fresh_hub):
    fresh_hub.start("--name", "Heart consortium", "--max-disk", "2")
    fresh_hub.process.send_signal(signal.SIGINT)
    assert fresh_hub.process.wait(60) == 0
    assert fresh_hub.said().rstrip().endswith("The hub has stopped.")
    fresh_hub.start()
    settings = fresh_hub.folder.settings()
    assert (settings.name, settings.max_disk_bytes, settings.port) == (
        "Heart consortium",
        2_000_000_000,
        fresh_hub.port,
    )


def test_refresh_of_a_hub_that_does_not_run_says_so(fresh_hub):
    configure(fresh_hub.folder, hosts=("127.0.0.1",), port=fresh_hub.port)
    assert not event_loop.run(refresh(fresh_hub.folder))
    seen = event_loop.run(look(fresh_hub.folder))
    assert (seen.pid, seen.servers) == (None, [])
