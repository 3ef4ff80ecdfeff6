"""A hub of three servers, started from what ``polyclinic hub config`` writes; one of them is killed between two rounds,
and another one is asked for the next."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from polyclinic import Experiment
from polyclinic.federation.hub.config import _CLUSTER_PORT_AFTER
from polyclinic.federation.hub.running import configure, refresh
from polyclinic.federation.hub.server import find_server
from polyclinic.federation.hub.status import look
from polyclinic.federation.over_nats import event_loop
from polyclinic.federation.over_nats.researcher import NatsFederation
from polyclinic.federation.try_out import OPEN, TryOut
from tests.system.conftest import SOAK
from tests.system.hospitals import Rooms, assert_same_end, experiment, until

pytestmark = pytest.mark.skipif(not SOAK, reason="takes most of a minute; set POLYCLINIC_SOAK=1")

SERVERS = 3


class Cluster(TryOut):
    """The servers are started by other means than the hub, which is only the desk."""

    def start_hub(self) -> None:
        """Three servers, and the desk."""
        hosts = tuple(f"127.0.0.1:{port}" for port in free_ports())
        configure(self.hub, hosts=hosts, cluster=SERVERS, own_server=False, name="three")
        for number in range(1, SERVERS + 1):
            with (self.folder / f"server-{number}.log").open("wb") as log:
                self.processes[f"server-{number}"] = subprocess.Popen(
                    [find_server(), "-c", f"server-{number}.conf"], cwd=self.hub.server, stdout=log, stderr=log
                )
        self._start("hub", ["hub", "start", "--at", str(self.hub.path)])
        self._wait("hub", lambda: event_loop.run(refresh(self.hub)))


def free_ports() -> list[int]:
    """Three for parties, each with one for the other servers beside it."""
    found: list[int] = []
    while len(found) < SERVERS:
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
            try:
                other.bind(("127.0.0.1", port + _CLUSTER_PORT_AFTER))
            except (OSError, OverflowError):
                continue
            found.append(port)
    return found


def test_a_cluster_loses_a_server_and_nothing_else(expected: Experiment, tmp_path: Path) -> None:
    with Rooms(tmp_path, Cluster(tmp_path, policy=OPEN)) as rooms:
        assert sorted(event_loop.run(look(rooms.tries.hub)).servers) == ["polyclinic-1", "polyclinic-2", "polyclinic-3"]
        federation = NatsFederation(rooms.identity)
        found = experiment(federation, tmp_path / "run", rooms.marks)
        found.run_round()
        rooms.tries.kill("server-1")
        found.run_round()
        until(lambda: len(event_loop.run(look(rooms.tries.hub)).servers) == SERVERS - 1, "the loss of a server")
        found.run()
        assert_same_end(found, expected)
        federation.close()
