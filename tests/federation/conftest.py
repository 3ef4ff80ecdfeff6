"""A real hub, in a process of its own, on free ports of this machine."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import nats
import pytest

from polyclinic.federation.hub.joining import join, read_token
from polyclinic.federation.hub.layout import HubFolder
from polyclinic.federation.hub.parties import Parties
from polyclinic.federation.hub.running import refresh
from polyclinic.federation.over_nats import event_loop
from polyclinic.federation.over_nats.subjects import Role

PATIENCE = 60.0


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def wait_until(condition, what="it"):
    until = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < until, f"{what} did not happen"
        time.sleep(0.02)
    return found


class RunningHub:
    """`polyclinic hub start`, and what tests do with it."""

    def __init__(self, path):
        self.folder = HubFolder(path)
        self.port = free_port()
        self.process = None
        self.output = path.parent / f"{path.name}.txt"

    def start(self, *words):
        command = [sys.executable, "-m", "polyclinic", "hub", "start", "--at", str(self.folder.path)]
        with self.output.open("w") as out:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port), *words], stdout=out, stderr=out
            )
        wait_until(lambda: "runs at" in self.said() or self.process.poll() is not None, "the start")
        assert self.process.poll() is None, self.said()
        return self

    def said(self):
        return self.output.read_text()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.said()

    def kill(self):
        self.process.kill()
        self.process.wait(PATIENCE)

    def server_pid(self):
        """Of the server's process, as the hub told last."""
        return int(self.said().rpartition("server started, process ")[2].split()[0])

    @property
    def parties(self):
        return Parties(self.folder)

    def invite(self, role, name):
        token = self.parties.invite(Role(role), name, timedelta(hours=1))
        assert event_loop.run(refresh(self.folder))
        return token

    def join(self, role, name, folder):
        token = self.invite(role, name)
        return join(read_token(token.encode(), Role(role)), folder)


class Party:
    """A connection of a party, with what the server has complained of."""

    def __init__(self, identity):
        self.identity = identity
        self.errors = []
        self._asked = 0

    async def __aenter__(self):
        async def note(err):
            self.errors.append(str(err))

        self.client = await nats.connect(
            **self.identity.connection_options(), allow_reconnect=False, error_cb=note, connect_timeout=10
        )
        return self

    async def __aexit__(self, *_):
        await self.client.close()

    async def publishes(self, subjects):
        """Those of the subjects that the server takes."""
        for subject in subjects:
            await self.client.publish(subject, b"{}")
        return await self._not_refused("publish", subjects)

    async def hears(self, subjects):
        """Those of the subjects that the server lets it subscribe to."""
        for subject in subjects:
            await self.client.subscribe(subject)
        return await self._not_refused("subscription", subjects)

    async def _not_refused(self, what, subjects):
        # The server answers in order: when it has complained of the last, it has of all before.
        self._asked += 1
        mark = f"nobody.may.{self._asked}"
        await self.client.publish(mark, b"")
        while not self._complained("publish", mark):
            await asyncio.sleep(0.02)
        return [subject for subject in subjects if not self._complained(what, subject)]

    def _complained(self, what, subject):
        return any(f'permissions violation for {what} to "{subject.lower()}"' in error for error in self.errors)


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    running = RunningHub(tmp_path_factory.mktemp("hub") / "hub")
    try:
        yield running.start()
        running.stop()
    finally:
        if running.process:
            running.kill()


@pytest.fixture(scope="module")
def guys(hub, tmp_path_factory):
    return hub.join("node", "Guys", tmp_path_factory.mktemp("guys"))


@pytest.fixture(scope="module")
def kings(hub, tmp_path_factory):
    return hub.join("node", "Kings", tmp_path_factory.mktemp("kings"))


@pytest.fixture(scope="module")
def ada(hub, tmp_path_factory):
    return hub.join("researcher", "Ada", tmp_path_factory.mktemp("ada"))


@pytest.fixture(scope="module")
def bob(hub, tmp_path_factory):
    return hub.join("researcher", "Bob", tmp_path_factory.mktemp("bob"))


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture
def fresh_hub(tmp_path):
    """One for tests that do it harm; not started."""
    running = RunningHub(tmp_path / "hub")
    try:
        yield running
    finally:
        if running.process:
            running.kill()


@pytest.fixture
def party():
    return Party


@pytest.fixture
def until():
    return wait_until


@pytest.fixture
def alive():
    return is_alive
