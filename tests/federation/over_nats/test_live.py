"""What nodes say of themselves: only what is understood is taken, and only what has changed is told."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from polyclinic.federation.node_state import NodeState, Watchers
from polyclinic.federation.over_nats.directory import Directory
from polyclinic.federation.over_nats.encryption import encrypt
from polyclinic.federation.over_nats.identity import KeyPair
from polyclinic.federation.over_nats.live import Showing, state_in
from polyclinic.messages.requests import SearchRequest
from polyclinic.node.stop import Progress

ADA, GUYS, EVE = KeyPair.generate(), KeyPair.generate(), KeyPair.generate()
ME: Any = SimpleNamespace(party_id="ada", keys=ADA)
TOLD = {"request_id": "r", "state": "training"}


class Work(SearchRequest):
    experiment_id: str = "e"


def directory() -> Directory:
    found = Directory(None)
    found.update([{"id": "guys", "name": "Guys", "key": GUYS.public_key}])
    return found


def said(told: object, keys: KeyPair = GUYS, node_id: str = "guys") -> tuple[str, NodeState] | None:
    words = told if isinstance(told, bytes) else json.dumps(told).encode()
    return state_in(encrypt(words, keys, ADA.public_key), node_id, ME, directory())


def test_states_are_read() -> None:
    assert said(TOLD | {"progress": [3, 9, 0.5]}) == ("r", NodeState("guys", "training", progress=Progress(3, 9, 0.5)))
    waiting = {"request_id": "r", "state": "waiting", "before": ["bob", "ada"], "num_before": 2, "later": 1}
    assert said(waiting) == ("r", NodeState("guys", "waiting", 2, ("bob", "")))
    assert said({"request_id": "r", "state": "sending", "progress": None}) == ("r", NodeState("guys", "sending"))


def test_a_loss_that_is_no_number_is_not_shown() -> None:
    found = said(TOLD | {"progress": [3, 9, math.inf]})
    assert found is not None
    assert found[1].describe() == "training, batch 3 of 9"


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        {"state": "training"},
        TOLD | {"state": "dancing"},
        TOLD | {"state": ["training"]},
        TOLD | {"progress": [1, 2]},
        TOLD | {"progress": ["1", 2, 0.5]},
        TOLD | {"progress": 5},
        TOLD | {"before": 5},
        TOLD | {"num_before": "many"},
        TOLD | {"num_before": 1e999},
    ],
    ids=range(13),
)
def test_what_is_not_understood_is_nothing(told: object) -> None:
    assert said(told) is None


def test_what_another_says_in_its_name_is_nothing() -> None:
    assert said(TOLD, keys=EVE) is None
    assert said(TOLD, node_id="toms") is None
    assert state_in(json.dumps(TOLD).encode(), "guys", ME, directory()) is None


# ---- what is told


class Seen:
    """A researcher who watches one node, with a clock of their own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("polyclinic.federation.over_nats.live.time.monotonic", lambda: self.now)
        self.directory, self.states, self.told = directory(), cast("dict[str, NodeState]", {}), []
        self.watchers = Watchers()
        request = Work(request_id="r")
        self.showing = Showing(self.watchers, self.directory, {"guys": request}, self.states)

    def heard(self) -> None:
        self.directory.heard("guys", json.dumps({"name": "Guys", "datasets": []}).encode())

    def look(self, *, connected: bool = True) -> list[NodeState]:
        told: list[NodeState] = []
        with self.watchers.watch("e", told.append):
            self.showing.look(["guys"], connected=connected)
        return told


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    return Seen(monkeypatch)


def test_a_state_is_told_once(seen: Seen) -> None:
    seen.heard()
    assert seen.look() == []
    seen.states["guys"] = NodeState("guys", "receiving")
    assert seen.look() == [NodeState("guys", "receiving")]
    assert seen.look() == []


def test_a_node_that_is_not_heard_of_for_ten_seconds_is_offline_and_comes_back(seen: Seen) -> None:
    seen.heard()
    last = time.time()
    seen.states["guys"] = NodeState("guys", "training")
    seen.look()
    seen.now += 9.9
    assert seen.look() == []
    seen.now += 0.2
    (away,) = seen.look()
    assert (away.state, away.since) == ("offline", pytest.approx(last, abs=60))
    assert seen.look() == []
    seen.heard()
    assert seen.look() == [NodeState("guys", "training")]


def test_a_node_that_was_never_heard_of_comes_back_as_one_that_waits(seen: Seen) -> None:
    assert seen.look() == [NodeState("guys", "offline")]
    seen.heard()
    assert seen.look() == [NodeState("guys", "waiting")]


def test_without_a_hub_nothing_is_said_of_the_nodes(seen: Seen) -> None:
    seen.heard()
    seen.now += 60
    assert seen.look(connected=False) == []
    # Its heartbeat has to come again first.
    seen.now += 9
    assert seen.look() == []
    seen.now += 2
    assert [state.state for state in seen.look()] == ["offline"]


def test_nobody_watches(seen: Seen) -> None:
    seen.showing.look(["guys"], connected=True)


def test_when_a_node_was_last_heard_of_is_known_from_the_hub(tmp_path: Path) -> None:
    found = Directory(tmp_path)
    party = {"id": "guys", "name": "Guys", "key": GUYS.public_key}
    found.update([party])
    assert found.nodes["guys"].describe() == "offline"
    # The hub's clock is a day behind.
    found.update([party | {"heard": time.time() - 86400 - 120}], time.time() - 86400)
    assert found.nodes["guys"].last_heard == pytest.approx(time.time() - 120, abs=30)
    assert found.nodes["guys"].describe().startswith("offline since ")


def test_what_a_heartbeat_says_of_work_and_queue() -> None:
    found = directory()
    about = {"name": "Guys", "datasets": [], "queue": {"bob": 2, "eve": 1}}
    found.heard("guys", json.dumps(about).encode())
    assert found.nodes["guys"].describe() == "idle; 3 waiting (2 of bob, 1 of eve)"
    about |= {"queue": {}, "working": {"state": "training", "researcher": "bob"}}
    found.heard("guys", json.dumps(about).encode())
    assert found.nodes["guys"].describe() == "training for bob"


@pytest.mark.parametrize(("theirs", "reads"), [("1.0", True), ("1.99", True), ("2.0", False), ("0.9", False)])
def test_a_node_of_another_major_version_is_known_before_it_is_asked(theirs: str, reads: bool) -> None:
    found = directory()
    about = {"name": "Guys", "datasets": [], "versions": {"polyclinic": "0.0.7", "messages": theirs}}
    found.heard("guys", json.dumps(about).encode())
    failure = found.nodes["guys"].unread("guys", Work(request_id="r"))
    assert (failure is None) == reads
    if failure is not None:
        assert failure.code == "other-version"
        assert f"reads messages of version {theirs} (its Polyclinic is 0.0.7), this request needs 1.0" in failure.what
