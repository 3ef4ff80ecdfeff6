"""Nodes of other versions at a real hub. They are written by hand here: they read and write JSON without the code of
our messages, so that they do what another version really does."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polyclinic import Experiment, TorchTrainingPlan
from polyclinic.errors import RoundFailed
from polyclinic.federation.hub.joining import join
from polyclinic.federation.over_nats import subjects
from polyclinic.federation.over_nats.connection import Link
from polyclinic.federation.over_nats.event_loop import LoopThread
from polyclinic.federation.over_nats.identity import Identity
from polyclinic.federation.over_nats.researcher import NatsFederation
from polyclinic.federation.over_nats.signing import Envelope, read_body, seal, unseal
from tests.system.hospitals import Hospitals, until

GOLDEN = Path(__file__).parents[1] / "messages" / "golden"
NO_TENSORS = (2).to_bytes(8, "little") + b"{}"
DATASET = {
    "dataset_id": "d",
    "name": "D",
    "dataset_kind": "tabular",
    "tags": ["versions"],
    "num_train": 9,
    "num_test": 0,
}
Answer = Callable[[dict[str, Any]], dict[str, Any]]


class Plan(TorchTrainingPlan):
    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (self.model(x) - y).square().mean()


class OtherNode:
    """A node that answers every request with the tensors that it was sent, as another version would.

    Args:
        says: its heartbeat, besides its name and its dataset.
        answer: makes the header of its reply of the header of a request.
    """

    def __init__(self, hospitals: Hospitals, name: str, says: dict[str, Any], answer: Answer) -> None:
        folder = hospitals.tries.folder / "other-nodes" / name
        join(hospitals.tries.invite(subjects.Role.NODE, name), folder)
        self.name, self.asked = name, list[dict[str, Any]]()
        self._me, self._ada, self._answer = Identity.load(folder), Identity.load(hospitals.identity), answer
        self._about = json.dumps({"name": name, "datasets": [DATASET], **says}).encode()
        self._link, self._loop = Link(self._me), LoopThread(name)
        self._loop.run(self._link.open(), 60)
        self._working = self._loop.start(self._work())
        self.beat()

    def beat(self) -> None:
        self._loop.run(self._link.tell(subjects.heartbeat(self.name), self._about), 60)

    def end(self) -> None:
        self._working.cancel()
        self._loop.run(self._link.close(), 60)
        self._loop.end()

    async def _work(self) -> None:
        async for message in self._link.pull(subjects.REQUESTS, subjects.consumer(self.name), 10):
            envelope, body = unseal(message.data)
            body = read_body(envelope, body, self._me.keys, self._ada.keys.public_key)
            header = header_of(body)
            self.asked.append(header)
            inline = body[len(body) - envelope.tensors :] if header["kind"].startswith("train") else b""
            text = json.dumps(self._answer(header)).encode()
            reply = Envelope(
                kind="reply",
                id=secrets.token_hex(16),
                sender=self.name,
                recipient="ada",
                time=time.time(),
                request_id=envelope.request_id,
                answers=envelope.id,
                digest=envelope.digest,
                tensors=len(inline),
            )
            content = b"PLYC" + len(text).to_bytes(4, "little") + text + NO_TENSORS + inline
            frame = seal(reply, content, self._me.keys, to=self._ada.keys.public_key)
            await self._link.store(subjects.reply("ada", self.name, envelope.request_id), frame, message_id=reply.id)
            await self._link.tell(message.reply, b"+ACK")


def header_of(message: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(message[8 : 8 + int.from_bytes(message[4:8], "little")])
    return found


def fields_of(header: dict[str, Any]) -> set[str]:
    return set(header) | {f"training_args.{name}" for name in header.get("training_args", {})}


def replied(header: dict[str, Any], node: str) -> dict[str, Any]:
    """A reply as of version 1.0."""
    name = header["kind"].partition("-request/")[0]
    ids = {"request_id": header["request_id"], "node_id": node}
    if name == "search":
        return ids | {"kind": "search-reply/1", "node_name": node, "datasets": [DATASET]}
    if name == "train":
        trained = {"num_samples": 9, "num_updates": 1, "loss": 0.5, "seconds": 0.1, "notes": ["trained"]}
        return ids | {"kind": "train-reply/1", **trained}
    return ids | {"kind": "failure/1", "code": "message", "stage": "receive", "what": "unknown kind"}


def first_version(header: dict[str, Any], node: str = "first") -> dict[str, Any]:
    """What version 1.0 replies. It reads no field that came later, and fails on one."""
    reply = replied(header, node)
    if reply["kind"] == "train-reply/1":
        known = header_of((GOLDEN / "train-request-1.bin").read_bytes())
        if odd := fields_of(header) - fields_of(known):
            reply = replied({**header, "kind": "none"}, node) | {"what": f"unknown {sorted(odd)}"}
    return reply


def later_version(header: dict[str, Any]) -> dict[str, Any]:
    """A version to come tells more than is known here."""
    reply = replied(header, "later") | {"minor": 7, "energy": {"kWh": 0.2}}
    if "datasets" in reply:
        reply["datasets"] = [DATASET | {"license": "open"}]
    return reply


def second_major(header: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "train-reply/2", "for": header["request_id"]}


@contextmanager
def other_node(hospitals: Hospitals, name: str, says: dict[str, Any], answer: Answer) -> Iterator[OtherNode]:
    node = OtherNode(hospitals, name, says, answer)
    try:
        yield node
    finally:
        node.end()


@pytest.fixture
def federation(hospitals: Hospitals) -> Iterator[NatsFederation]:
    """One that has looked at the hub after the other nodes joined."""
    found = NatsFederation(hospitals.identity)
    yield found
    found.close()


def heard_of(federation: NatsFederation, *nodes: OtherNode) -> None:
    """Until the researcher knows the nodes' versions."""
    for node in nodes:
        until(lambda node=node: node.name in {known.node_id for known in federation.nodes()})  # type: ignore[misc]
        node.beat()
        until(lambda node=node: federation._directory.nodes[node.name].versions)  # type: ignore[misc]


def run(federation: NatsFederation, folder: Path, *nodes: str, **training_args: Any) -> Experiment:
    found = Experiment(
        Plan,
        tags=["versions"],
        nodes=nodes,
        federation=federation,
        training_args={"num_updates": 1, **training_args},
        round_limit=1,
        folder=folder,
        observers=[],
    )
    found.run()
    return found


def test_nodes_of_an_earlier_and_of_a_later_minor_version_work(
    hospitals: Hospitals, federation: NatsFederation, tmp_path: Path
) -> None:
    with (
        other_node(hospitals, "first", {"versions": {"messages": "1.0"}}, first_version) as first,
        other_node(hospitals, "silent", {}, lambda header: first_version(header, "silent")) as silent,
        other_node(hospitals, "later", {"versions": {"messages": "1.7"}, "mood": "good"}, later_version) as later,
    ):
        heard_of(federation, first, later, silent)
        found = run(federation, tmp_path / "run", "first", "later", "silent")
        assert found.records[-1].nodes == ("first", "later", "silent")
        assert found.records[-1].notes == ("first: trained", "later: trained", "silent: trained")
        assert {header["kind"] for header in first.asked} >= {"train-request/1"}
        # They sent back what they were sent.
        one, other = found.model("last").state_dict(), found.model(0).state_dict()
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_what_is_too_new_for_a_node_is_not_sent_to_it_and_says_so(
    hospitals: Hospitals, federation: NatsFederation, tmp_path: Path
) -> None:
    versions = {"versions": {"messages": "1.0", "polyclinic": "0.0.7"}}
    with other_node(hospitals, "earlier", versions, lambda header: replied(header, "earlier")) as earlier:
        heard_of(federation, earlier)
        with pytest.raises(RoundFailed) as caught:
            run(federation, tmp_path / "run", "earlier", update_compression="half")
        assert caught.value.codes == {"other-version"}
        assert "reads messages of version 1.0 (its Polyclinic is 0.0.7), this request needs 1.1" in str(caught.value)
        assert [header["kind"] for header in earlier.asked if header["kind"].startswith("train")] == []
        shown = federation.overview()
        assert any("earlier has Polyclinic 0.0.7 and messages of version 1.0" in remark for remark in shown.remarks)


def test_a_reply_of_another_major_version_ends_the_round_and_says_so(
    hospitals: Hospitals, federation: NatsFederation, tmp_path: Path
) -> None:
    def answer(header: dict[str, Any]) -> dict[str, Any]:
        return second_major(header) if header["kind"].startswith("train") else replied(header, "second")

    with other_node(hospitals, "second", {"mood": "good"}, answer):
        with pytest.raises(RoundFailed) as caught:
            run(federation, tmp_path / "run", "second")
        assert caught.value.codes == {"other-version"}
        assert "'train-reply/2'; this Polyclinic reads 'train-reply/1'" in str(caught.value)
        assert "same major version" in caught.value.to_do


def test_a_node_of_another_major_version_is_known_by_its_heartbeat(
    hospitals: Hospitals, federation: NatsFederation, tmp_path: Path
) -> None:
    with other_node(hospitals, "third", {"versions": {"messages": "3.1", "polyclinic": "9.9"}}, second_major) as third:
        heard_of(federation, third)
        with pytest.raises(RoundFailed, match=r"reads messages of version 3\.1 .*this request needs 1\."):
            run(federation, tmp_path / "run", "third")
        assert third.asked == []
