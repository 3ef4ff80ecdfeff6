"""Whoever plays another, or changes, repeats or makes up messages is refused and logged, and nobody else notices: after
each attempt an honest round works. The hub, the nodes and their keys are real; the attackers speak the protocol well.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from polyclinic import Experiment
from polyclinic.errors import FederationError, JoinRefused, NotTrusted, RoundFailed
from polyclinic.experiment.participants import find_participants
from polyclinic.federation.hub.certificates import make_certificates
from polyclinic.federation.hub.joining import join
from polyclinic.federation.hub.parties import Parties
from polyclinic.federation.hub.running import admin_connection, refresh
from polyclinic.federation.over_nats import event_loop, subjects
from polyclinic.federation.over_nats.connection import Link
from polyclinic.federation.over_nats.identity import Identity, KeyPair, node_identity_folder
from polyclinic.federation.over_nats.researcher import NatsFederation
from polyclinic.federation.over_nats.signing import Envelope, seal
from polyclinic.federation.over_nats.subjects import REPLIES, REQUESTS, Role
from polyclinic.federation.over_nats.trust import Trust
from polyclinic.federation.places import create_nodes
from tests.system.hospitals import NAMES, NODES, STEPS, Hospitals, experiment, in_background, until

POLYCLINIC = [sys.executable, "-m", "polyclinic"]


@pytest.fixture(scope="module")
def honest(running: Hospitals, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    folder = tmp_path_factory.mktemp("honest") / "run"
    return experiment(running.federation, folder, running.marks, ballast=1, round_limit=100)


@pytest.fixture(autouse=True)
def honest_round(hospitals: Hospitals, honest: Experiment) -> Iterator[None]:
    yield
    hospitals.restore()
    honest.run_round()
    assert honest.records[-1].nodes == NAMES
    assert hospitals.steps() == len(NODES) * STEPS


@pytest.fixture
def ada(hospitals: Hospitals) -> Identity:
    return Identity.load(hospitals.identity)


@pytest.fixture
def hungary(hospitals: Hospitals) -> Identity:
    return Identity.load(node_identity_folder(hospitals.tries.place / "hungary"))


@pytest.fixture
def eve(hospitals: Hospitals) -> Identity:
    """A researcher of the hub whom no node trusts."""
    folder = hospitals.tries.join_researcher(f"eve-{secrets.token_hex(3)}")
    return Identity.load(folder)


def linked(identity: Identity, use: Callable[[Link], Awaitable[Any]]) -> Any:
    """What somebody with this identity gets."""

    async def run() -> Any:
        link = Link(identity)
        await link.open()
        try:
            return await asyncio.wait_for(use(link), 60)
        finally:
            await link.close()

    return event_loop.run(run())


def as_operator(hospitals: Hospitals, subject: str, *frames: bytes) -> None:
    """What somebody who holds the hub can do: store whatever at any subject."""

    async def run() -> None:
        client = await admin_connection(hospitals.tries.hub)
        for frame in frames:
            await client.jetstream().publish(subject, frame, timeout=20)
        await client.close()

    event_loop.run(run())


def refused(hospitals: Hospitals, node: str, what: str, before: int) -> None:
    """The node's log says so."""
    until(lambda: hospitals.log(node).count(what) > before, f"word of {what!r} in the log of {node}")


# ---- who may connect


def test_a_server_with_another_certificate_gets_nothing(hospitals: Hospitals, ada: Identity, tmp_path: Path) -> None:
    """The lines of a node and of a researcher lead to an impostor for a while."""
    make_certificates(tmp_path, tmp_path / "server", ["127.0.0.1"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server" / "server.pem", tmp_path / "server" / "server.key")
    heard: list[bytes] = []

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(1000))
        writer.close()

    async def run() -> None:
        impostor = await asyncio.start_server(hear, "127.0.0.1", 0, ssl=context)
        lines = (hospitals.line, hospitals.node_line)
        for line in lines:
            line.to_port = impostor.sockets[0].getsockname()[1]
            line.cut()
        try:
            with pytest.raises(FederationError, match="certificate verify failed") as caught:
                await Link(ada).open()
            assert "the hub has another certificate" in caught.value.to_do
            while "certificate verify failed" not in hospitals.log("hungary"):
                await asyncio.sleep(0.05)
        finally:
            for line in lines:
                line.to_port = hospitals.tries.port
            impostor.close()

    event_loop.run(run())
    assert not any(heard)


def test_a_wrong_key_does_not_get_in(ada: Identity) -> None:
    with pytest.raises(FederationError, match="Authorization Violation") as caught:
        linked(replace(ada, keys=KeyPair.generate()), lambda link: link.ask_desk("hello", {}))
    assert "its key is another one" in caught.value.to_do


def test_a_token_works_once_and_not_for_ever(hospitals: Hospitals, tmp_path: Path) -> None:
    token = hospitals.tries.invite(Role.RESEARCHER, "Bob")
    join(token, tmp_path / "bob")
    with pytest.raises(JoinRefused, match="was used already"):
        join(token, tmp_path / "thief")
    refused(hospitals, "hub", f"join.{token.token_id}: refused: this join token was used already", 0)
    old = Parties(hospitals.tries.hub).invite(Role.RESEARCHER, "Cecil", timedelta(seconds=1))
    assert event_loop.run(refresh(hospitals.tries.hub))
    time.sleep(1)
    with pytest.raises(JoinRefused, match="has expired"):
        join(old, tmp_path / "carol")
    assert not (tmp_path / "carol" / "identity.json").exists()


def test_a_researcher_who_is_revoked_is_cut_off_in_a_round(hospitals: Hospitals, tmp_path: Path) -> None:
    folder = hospitals.tries.join_researcher("mallory")
    mallory = Identity.load(folder)
    for node in NODES:
        command = ["node", "trust", node, "mallory", "--key", mallory.keys.public_key]
        subprocess.run([*POLYCLINIC, *command, "--at", str(hospitals.tries.place)], check=True, capture_output=True)
    federation = NatsFederation(folder)
    hospitals.wait(True)
    end = in_background(experiment(federation, tmp_path / "run", hospitals.marks, ballast=1, round_limit=1).run)
    hospitals.training()
    Parties(hospitals.tries.hub).revoke("mallory")
    assert event_loop.run(refresh(hospitals.tries.hub))
    error = end()
    assert isinstance(error, FederationError)
    assert "this party was revoked" in error.to_do
    federation.close()
    # The plans wait for ever; the nodes end them.
    until(lambda: all(hospitals.status(node).task is None for node in NODES), "an end of the work")
    hospitals.wait(False)


def test_a_node_that_is_revoked_is_cut_off_and_ends(hospitals: Hospitals) -> None:
    tries = hospitals.tries
    create_nodes(tries.place, "fed_heart_disease", centers=[2])
    tries.join_node("switzerland", [hospitals.identity])
    tries.start_node("switzerland")
    process = tries.processes.pop("switzerland")
    try:
        Parties(tries.hub).revoke("switzerland")
        assert event_loop.run(refresh(tries.hub))
        assert process.wait(120) == 1
        assert "this party was revoked" in hospitals.log("switzerland")
    finally:
        process.kill()


# ---- what a party may do


def test_a_node_gets_nothing_of_another_node(hospitals: Hospitals, hungary: Identity) -> None:
    async def steal(link: Link) -> None:
        for subject in (
            f"$JS.API.CONSUMER.MSG.NEXT.{REQUESTS}.cleveland",
            f"$JS.API.CONSUMER.INFO.{REQUESTS}.cleveland",
            subjects.direct_get(REPLIES, subjects.reply("ada", "cleveland", "r")),
            subjects.desk("hello", "cleveland"),
        ):
            with pytest.raises(FederationError, match="does not let node hungary use"):
                await link.ask(subject)

    linked(hungary, steal)
    log = (hospitals.tries.hub.server / "server.log").read_text(encoding="utf-8")
    assert f'{hungary.keys.public_key}" - Publish Violation - Subject "desk.hello.cleveland"' in log


def test_a_node_cannot_speak_for_another(hungary: Identity) -> None:
    async def speak(link: Link) -> None:
        for subject in (
            subjects.reply("ada", "cleveland", "r"),
            subjects.heartbeat("cleveland"),
            "req.cleveland.ada.r",
        ):
            with pytest.raises(FederationError, match="does not let node hungary use"):
                await link.store(subject, b"{}")

    linked(hungary, speak)


def test_a_researcher_gets_nothing_of_another(eve: Identity, caplog: pytest.LogCaptureFixture) -> None:
    async def steal(link: Link) -> None:
        async def hear(_: object) -> None:
            raise AssertionError

        for stream, subject in ((REPLIES, "rep.ada.cleveland.r"), (subjects.PAYLOADS, "up.ada.cleveland.r.a.0")):
            with pytest.raises(FederationError, match="does not let researcher eve-"):
                await link.stored(stream, subject)
        await link.listen("rep.ada.>", hear)
        with pytest.raises(FederationError, match="does not let researcher eve-"):
            await link.store(subjects.request("cleveland", "ada", "r"), b"{}")

    linked(eve, steal)
    assert "the hub forbids the subscription to rep.ada.>" in caplog.text


# ---- what a node lets in


def test_a_researcher_whom_the_node_does_not_trust_is_told_so(
    hospitals: Hospitals, eve: Identity, tmp_path: Path
) -> None:
    eve.save(tmp_path / "eve")
    federation = NatsFederation(tmp_path / "eve")
    found = experiment(federation, tmp_path / "run", hospitals.marks, ballast=1, round_limit=1)
    with pytest.raises(NotTrusted, match="'fed_heart_disease' works for you: node cleveland does ") as caught:
        found.run()
    assert "its data manager can: polyclinic node trust" in caught.value.to_do
    # What the hospitals tell of themselves is for all: that they do not have this is said, and not that they refuse.
    with pytest.raises(NotTrusted, match="no node with data works for you"):
        find_participants(federation, ["another-disease"], None, None)
    assert hospitals.steps() == 0
    # One that trusts is enough.
    place = hospitals.tries.place / "hungary"
    Trust.load(place).plus(eve.party_id, eve.keys.public_key).save(place)
    with pytest.warns(UserWarning, match="goes on without these: node cleveland does not trust researcher eve-"):
        found.run()
    assert found.records[-1].nodes == ("Hungary",)
    Trust.load(place).without(eve.party_id).save(place)
    federation.close()


def test_work_for_a_researcher_who_is_not_trusted_any_more_is_stopped(
    hospitals: Hospitals, eve: Identity, tmp_path: Path
) -> None:
    eve.save(tmp_path / "eve")
    place = hospitals.tries.place / "hungary"
    Trust.load(place).plus(eve.party_id, eve.keys.public_key).save(place)
    federation = NatsFederation(tmp_path / "eve")
    hospitals.wait(True)
    (hospitals.marks / "stoppable").touch()
    long = {"batch_size": 16, "num_updates": 100_000}
    settings: dict[str, Any] = {"ballast": 1, "round_limit": 1, "nodes": ["hungary"]}
    ends = []
    for name in ("run", "waits"):
        found = experiment(federation, tmp_path / name, hospitals.marks, training_args=dict(long), **settings)
        ends.append(in_background(found.run))
        hospitals.training(1)
    until(lambda: hospitals.status("hungary").queue == {eve.party_id: 1}, "the queue")
    Trust.load(place).without(eve.party_id).save(place)
    for end in ends:
        error = end()
        assert isinstance(error, RoundFailed)
        assert error.codes == {"not-trusted"}
    assert "is stopped: its researcher is not trusted any more" in hospitals.log("hungary")
    federation.close()


def test_a_request_that_the_hub_makes_up_is_refused(hospitals: Hospitals, ada: Identity) -> None:
    before = hospitals.log("cleveland").count("not signed by ada")
    envelope = Envelope(
        kind="request", id=secrets.token_hex(16), sender="ada", recipient="cleveland", time=time.time(), request_id="r"
    )
    as_operator(hospitals, "req.cleveland.ada.r", seal(envelope, b"{}", KeyPair.generate()))
    refused(hospitals, "cleveland", "not signed by ada", before)
    assert hospitals.steps() == 0


def test_a_request_that_is_repeated_is_not_done_again(hospitals: Hospitals, tmp_path: Path) -> None:
    """Also not at another node, and not after its reply is forgotten."""
    frames: dict[str, bytes] = {}

    async def overhear(done: asyncio.Event) -> None:
        client = await admin_connection(hospitals.tries.hub)
        heard = await client.subscribe("req.cleveland.>")
        await client.flush()
        ready.set()
        while not done.is_set():
            try:
                message = await heard.next_msg(0.2)
            except TimeoutError:
                continue
            if message.data:
                frames[message.subject] = message.data
        await client.close()

    with ExitStack() as stack:
        ready, done = asyncio.Event(), asyncio.Event()
        wait = in_background(lambda: event_loop.run(overhear(done)))
        stack.callback(wait)
        stack.callback(done.set)
        until(ready.is_set, "listening")
        found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks, ballast=1)
        found.run()
    steps = hospitals.steps()
    answered = hospitals.log("cleveland").count("answered again")
    second = hospitals.log("cleveland").count("came a second time")
    strange = hospitals.log("hungary").count("for cleveland came to hungary")
    assert len(frames) >= 3
    for subject, frame in frames.items():
        as_operator(hospitals, subject, frame)
        as_operator(hospitals, subject.replace("cleveland", "hungary"), frame)
    refused(hospitals, "cleveland", "answered again", answered)
    # The replies to searches and to the first round are forgotten, so these are refused.
    refused(hospitals, "cleveland", "came a second time", second)
    refused(hospitals, "hungary", "for cleveland came to hungary", strange + len(frames) - 1)
    assert hospitals.steps() == steps
    for mark in hospitals.marks.glob("step-*"):
        mark.unlink()


def test_messages_that_are_none_are_refused(hospitals: Hospitals, ada: Identity) -> None:
    rubbish = [b"x", b"x" * 100, bytes(68), secrets.token_bytes(10_000), bytes(subjects.MAX_MESSAGE_BYTES - 1000)]
    rubbish.append(bytes(64) + (14).to_bytes(4, "little") + b'{"version": 1}')
    rubbish.append(bytes(64) + (100_000).to_bytes(4, "little") + b"[" * 100_000)

    async def send(link: Link) -> None:
        for number, data in enumerate(rubbish):
            await link.store(subjects.request("cleveland", "ada", f"rubbish-{number}"), data)
            await link.tell(subjects.control("cleveland", "ada"), data)
        with pytest.raises(FederationError, match="larger than the hub takes"):
            await link.store(subjects.request("cleveland", "ada", "large"), bytes(subjects.MAX_MESSAGE_BYTES + 1))

    linked(ada, send)
    for number in range(len(rubbish)):
        refused(hospitals, "cleveland", f"request rubbish-{number} failed at stage receive", 0)
    refused(hospitals, "cleveland", "refused at ctl.cleveland.ada", 6)
