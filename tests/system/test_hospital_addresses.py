"""Each party in a network of its own, with its own address, as hospitals are: network namespaces with a cable each to
the hub's. A cable is pulled while its node trains.

Needs root and ``ip`` (iproute2).
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from polyclinic import Experiment
from polyclinic.federation.hub.status import look
from polyclinic.federation.over_nats import event_loop
from polyclinic.federation.over_nats.identity import Identity, node_identity_folder
from polyclinic.federation.try_out import OPEN, TryOut
from tests.system.hospitals import NODES, Rooms, assert_same_end, in_background, until

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ip") is None, reason="only root may make networks, with iproute2"
)

# Of a block that is kept for documents (RFC 5737), so that nothing real is hidden.
BLOCK = "198.51.100.0/24"
HUB = "198.51.100.1"
ADDRESSES = {NODES[0]: "198.51.100.11", NODES[1]: "198.51.100.12", "researcher": "198.51.100.21"}


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, encoding="utf-8")


class Apart(TryOut):
    """Nodes and the researcher run in networks of their own; the hub in that of this machine."""

    def command(self, name: str, words: list[str]) -> list[str]:
        """In the network of the party."""
        return ["ip", "netns", "exec", space(name), *words] if name in ADDRESSES else words


def space(name: str) -> str:
    return f"pc{os.getpid()}-{name}"


def cable(name: str) -> str:
    """The hub's end; an interface's name has at most 15 letters."""
    return f"pc{os.getpid()}{name[:3]}"


def plug(name: str) -> None:
    """Connects the party's cable at the hub."""
    ip("link", "set", cable(name), "up")
    ip("route", "replace", f"{ADDRESSES[name]}/32", "dev", cable(name), "src", HUB)


@pytest.fixture
def networks() -> Iterator[None]:
    used = subprocess.run(["ip", "route", "show", "to", "root", BLOCK], capture_output=True, check=True).stdout
    if used:
        pytest.skip(f"this machine uses {BLOCK} itself")
    with ExitStack() as stack:
        try:
            ip("address", "add", f"{HUB}/32", "dev", "lo")
        except subprocess.CalledProcessError as err:
            pytest.skip(f"this machine does not let root make networks: {err.stderr}")
        stack.callback(ip, "address", "delete", f"{HUB}/32", "dev", "lo")
        for name, address in ADDRESSES.items():
            ip("netns", "add", space(name))
            stack.callback(ip, "netns", "delete", space(name))
            ip("link", "add", cable(name), "type", "veth", "peer", "name", "hospital", "netns", space(name))
            stack.callback(ip, "link", "delete", cable(name))
            ip("-n", space(name), "address", "add", f"{address}/32", "dev", "hospital")
            for interface in ("hospital", "lo"):
                ip("-n", space(name), "link", "set", interface, "up")
            ip("-n", space(name), "route", "add", f"{HUB}/32", "dev", "hospital", "src", address)
            plug(name)
        yield


def test_each_party_has_an_address_of_its_own(networks: None, expected: Experiment, tmp_path: Path) -> None:
    with Rooms(tmp_path, Apart(tmp_path, host=HUB, policy=OPEN)) as rooms:
        rooms.wait(True)
        program = rooms.researcher(tmp_path / "run", "end")
        end = in_background(program.wait)
        rooms.training()
        seen = event_loop.run(look(rooms.tries.hub)).connected
        for name, address in ADDRESSES.items():
            folder = rooms.identity if name == "researcher" else node_identity_folder(rooms.tries.place / name)
            assert address in seen[Identity.load(folder).keys.public_key]
        ip("link", "set", cable(NODES[1]), "down")
        rooms.wait(False)
        until(lambda: rooms.status(NODES[0]).task is None, "the end of the other node's work")
        plug(NODES[1])
        assert end() is None
        assert program.stdout is not None
        assert program.stdout.read().decode() == "end ended with 0\n"
        program.stdout.close()
        assert_same_end(Experiment.load(tmp_path / "run"), expected)
