"""A hub with a websocket, for who is let out as web traffic only: the second node and the researcher join and work by
it, as `docs/hub.md` says, over a line that breaks.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from polyclinic import Experiment
from polyclinic.federation.hub.certificates import make_certificates
from polyclinic.federation.over_nats.identity import Identity, hub_folder
from polyclinic.federation.over_nats.researcher import NatsFederation
from polyclinic.federation.over_nats.subjects import Role
from polyclinic.federation.places import create_nodes
from polyclinic.federation.try_out import OPEN, TryOut, free_port
from polyclinic.node.policy_file import write_policy
from tests.system.hospitals import NAMES, NODES, ROUNDS, Rooms, assert_same_end, experiment, in_background, until
from tests.system.proxy import Proxy

pytest.importorskip("aiohttp")


class OverTheWeb(Rooms):
    """The first node dials the hub as others do; the second and the researcher dial ``line``, by websocket."""

    def __enter__(self) -> OverTheWeb:
        with ExitStack() as stack:
            tries = stack.enter_context(self.tries)
            create_nodes(tries.place, "fed_heart_disease", centers=[0, 1])
            port = free_port()
            tries.start_hub("--websocket-port", str(port))
            self.line = stack.enter_context(Proxy(port))
            token = tries.invite(Role.RESEARCHER, "ada").encode()
            assert self.say("federation", "use", token, *self.by_websocket) == ""
            self.identity = hub_folder(tries.place, "try-out")
            tries.join_node(NODES[0], [self.identity])
            token = tries.invite(Role.NODE, NAMES[1]).encode()
            assert self.say("node", "join", token, *self.by_websocket) == ""
            key = Identity.load(self.identity).keys.public_key
            assert self.say("node", "trust", NODES[1], "ada", "--key", key, "--at", str(tries.place)) == ""
            write_policy(tries.place / NODES[1], OPEN.encode())
            for node in NODES:
                tries.start_node(node)
            self.marks.mkdir()
            self._stack = stack.pop_all()
        return self

    @property
    def by_websocket(self) -> tuple[str, ...]:
        return ("--dial", f"wss://127.0.0.1:{self.line.port}", "--at", str(self.tries.place))

    def say(self, *words: str) -> str:
        """What a party's command complains of."""
        command = [sys.executable, "-m", "polyclinic", *words]
        return subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, encoding="utf-8", env=self.tries.environment("")
        ).stderr


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverTheWeb]:
    with OverTheWeb(tmp_path_factory.mktemp("web"), TryOut(tmp_path_factory.mktemp("tries"), policy=OPEN)) as found:
        yield found


def test_a_hospital_works_by_websocket_over_a_line_that_breaks_and_a_hub_that_dies(
    web: OverTheWeb, expected: Experiment, tmp_path: Path
) -> None:
    web.wait(True)
    federation = NatsFederation(web.identity)
    found = experiment(federation, tmp_path / "run", web.marks)
    end = in_background(found.run)
    web.training()
    web.line.refusing = True
    web.line.cut()
    until(lambda: not web.status(NODES[1]).connected, "the loss of the line")
    web.wait(False)
    until(lambda: web.status(NODES[0]).task is None, "the end of the other node's work")
    web.kill_hub()
    web.tries.start_again("hub")
    assert not web.status(NODES[1]).connected
    web.line.refusing = False
    assert end() is None
    federation.close()
    assert_same_end(found, expected)
    # Each round the researcher sends its model once and gets two; the node gets one and sends one.
    assert web.line.passed > 5 * ROUNDS * 4 * 300_000


def test_a_websocket_with_another_certificate_is_refused(web: OverTheWeb, tmp_path: Path) -> None:
    """As by a proxy that opens TLS to look inside."""
    make_certificates(tmp_path / "other", tmp_path / "other", ["127.0.0.1"])
    token = web.tries.invite(Role.NODE, "wary")
    other = replace(token, ca=(tmp_path / "other" / "ca.pem").read_text())
    assert "is not the hub that made this token" in web.say("node", "join", other.encode(), *web.by_websocket)
    # The token was not spent.
    assert web.say("node", "join", token.encode(), *web.by_websocket) == ""


def test_a_websocket_that_is_not_there_is_told_without_more(web: OverTheWeb) -> None:
    token = web.tries.invite(Role.NODE, "lonely").encode()
    web.line.refusing = True
    told = web.say("node", "join", token, *web.by_websocket)
    web.line.refusing = False
    assert told.startswith("Error: the hub cannot be reached at wss://127.0.0.1:")
    assert "Unclosed" not in told
