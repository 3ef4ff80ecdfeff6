"""A whole real federation on this machine: a hub, nodes and researchers, each in a process of its own, over TLS.

For ``polyclinic try-federation``, tests and benchmarks.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Self

from polyclinic.errors import FederationError, HubError
from polyclinic.federation.hub.joining import join
from polyclinic.federation.hub.layout import HubFolder
from polyclinic.federation.hub.parties import Parties
from polyclinic.federation.hub.running import refresh
from polyclinic.federation.hub.tokens import JoinToken, duration
from polyclinic.federation.over_nats import event_loop
from polyclinic.federation.over_nats.identity import Identity, hub_folder, node_identity_folder
from polyclinic.federation.over_nats.status import NodeStatus
from polyclinic.federation.over_nats.subjects import Role
from polyclinic.federation.over_nats.trust import Trust
from polyclinic.node.policy_file import write_policy

# A policy that asks and keeps back as little as it can, for tests of everything else.
OPEN = """
approval = "off"
sandbox = "limits-only"

[leaves]
tracebacks = true

[every_dataset]
minimum_training_rows = 1
minimum_test_rows = 1
"""
_START_SECONDS = 120.0
_STOP_SECONDS = 30.0


class TryOut:
    """Use it in a ``with`` statement: at its end all processes are ended, the files stay.

    Args:
        folder: for the hub's folder, the logs and the researchers' identities.
        place: the folder of the nodes' folders; default: one in ``folder``.
        host: the address of this machine that parties dial.
        policy: of each node that joins, as TOML; "": the default policy, by which a plan has to be approved.
    """

    def __init__(self, folder: Path, place: Path | None = None, *, host: str = "127.0.0.1", policy: str = "") -> None:
        self.folder = folder
        self.place = place or folder / "nodes"
        self.hub = HubFolder(folder / "hub")
        self.host, self.port = host, free_port()
        self.policy = policy
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._arguments: dict[str, list[str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- the hub

    def start_hub(self, *options: str) -> None:
        """Starts the hub, and waits until it lets parties in.

        Args:
            options: more of them for ``polyclinic hub start``, which the hub's folder keeps.

        Raises:
            HubError: it ended, or takes too long; what it said is in ``hub.log``.
        """
        where = ["--at", str(self.hub.path), "--host", self.host, "--port", str(self.port), "--name", "try out"]
        self._start("hub", ["hub", "start", *where, *options])
        self._wait("hub", lambda: event_loop.run(refresh(self.hub)) if self.hub.exists else False)

    def invite(self, role: Role, name: str) -> JoinToken:
        """A join token, which the hub knows."""
        token = Parties(self.hub).invite(role, name, duration("1h"))
        if not event_loop.run(refresh(self.hub)):
            raise HubError("the hub does not answer", to_do=f"look into {self.folder / 'hub.log'}")
        return token

    # ---- parties

    def join_researcher(self, name: str) -> Path:
        """Makes a researcher's identity, and returns its folder."""
        folder = hub_folder(self.folder, name)
        join(self.invite(Role.RESEARCHER, name), folder)
        return folder

    def join_node(self, node_id: str, trusted: Iterable[Path] = ()) -> None:
        """Has the node in ``place/<node_id>`` join, and trust these researchers, by the folders of their identities."""
        folder = self.place / node_id
        join(self.invite(Role.NODE, node_id), node_identity_folder(folder))
        if self.policy:
            write_policy(folder, self.policy.encode())
        trust = Trust.load(folder)
        for researcher in map(Identity.load, trusted):
            trust = trust.plus(researcher.party_id, researcher.keys.public_key)
        trust.save(folder)

    def start_node(self, node_id: str, *options: str, wait: bool = True) -> None:
        """Starts a node that has joined; ``options``: as for ``polyclinic node start``."""
        self._start(node_id, ["node", "start", node_id, "--at", str(self.place), *options])
        if wait:
            self.wait_for_node(node_id)

    def wait_for_node(self, node_id: str) -> None:
        """Until the node is connected to the hub."""

        def connected() -> bool:
            status = NodeStatus.read(self.place / node_id)
            return status is not None and status.pid == self.processes[node_id].pid and status.connected

        self._wait(node_id, connected)

    # ---- processes

    def start_again(self, name: str) -> None:
        """Starts the hub or a node as it was started before, and waits until it is there."""
        if name == "hub":
            self.start_hub()
        else:
            self._start(name, self._arguments[name])
            self.wait_for_node(name)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Sends the hub (its server too) or a node a signal; waits for the end of what is killed."""
        process = self.processes[name]
        if name == "hub":
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            process.wait(_STOP_SECONDS)

    def close(self) -> None:
        """Ends all processes, nodes first."""
        running = [p for name, p in self.processes.items() if name != "hub"]
        for group in (running, [p for name, p in self.processes.items() if name == "hub"]):
            for process in group:
                process.send_signal(signal.SIGCONT)
                process.terminate()
            for process in group:
                _end(process)

    def command(self, name: str, words: list[str]) -> list[str]:  # noqa: ARG002
        """What starts the hub or a node; to be overridden by who starts them in another way."""
        return words

    def environment(self, name: str) -> dict[str, str]:  # noqa: ARG002
        """The environment variables of the hub or a node."""
        return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def _start(self, name: str, arguments: list[str]) -> None:
        self._arguments[name] = arguments
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.command(name, [sys.executable, "-m", "polyclinic", *arguments]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(name),
                start_new_session=True,
            )

    def _wait(self, name: str, ready: Callable[[], Any]) -> None:
        until = time.monotonic() + _START_SECONDS
        while not ready():
            ended = self.processes[name].poll() is not None
            if ended or time.monotonic() > until:
                log = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
                raise FederationError(
                    f"{name} {'ended' if ended else 'does not start'}: {log[-1500:].strip()}",
                    to_do=f"look into {self.folder / f'{name}.log'}",
                )
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
