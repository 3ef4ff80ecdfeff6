"""The contract of `Federation`: what holds wherever the nodes are. See conftest.py for the implementations."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polyclinic import TorchTrainingPlan
from polyclinic.errors import FederationError, NodeInUse
from polyclinic.federation import processes
from polyclinic.messages.replies import CheckReply, EvaluateReply, Failure, Reply, SearchReply, TrainReply
from polyclinic.messages.requests import CheckRequest, EvaluateRequest, PlanText, SearchRequest, TrainRequest
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.plans.source import extract_source

FEATURES = 13


def do(deed: str, marks: str) -> None:
    """What a plan does to the process that runs it."""
    if deed:
        (Path(marks) / f"{deed}-{time.monotonic_ns()}").touch()
    if deed == "raise":
        raise RuntimeError("this plan is broken")
    if deed == "exit":
        os._exit(3)
    if deed == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if deed == "sleep":
        time.sleep(3600)
    if deed == "slow":
        time.sleep(0.02)
    if deed == "print":
        print("PLYC" * 1000, flush=True)
        os.write(1, b"\x05\x00\x00\x00noise")
        print("on the error stream", file=sys.stderr)
    if deed == "read":
        sys.stdin.read()


class Plan(TorchTrainingPlan):
    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = nn.Linear(FEATURES, 1)
        self.ballast = nn.Parameter(torch.zeros(model_args.get("ballast", 1)))
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        do(self.model_args.get("deed", ""), self.model_args.get("marks", ""))
        loss = nn.functional.binary_cross_entropy_with_logits(self.model(x), y)
        return loss + self.ballast.square().mean()

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.model(x))


SOURCE = extract_source(Plan)


class Asking:
    """Requests for a kit's nodes, and their replies."""

    def __init__(self, kit: Any, marks: Path) -> None:
        self.federation = kit.federation
        self.marks = marks
        self.node_ids = [node.node_id for node in self.federation.nodes()]
        self.experiment_id = uuid.uuid4().hex
        found = list(self.federation.send(self.search("contract")))
        self.datasets = {r.node_id: r.datasets[0] for r in found if isinstance(r, SearchReply)}

    def search(self, *tags: str) -> dict[str, SearchRequest]:
        return {n: SearchRequest(request_id=uuid.uuid4().hex, tags=tags) for n in self.node_ids}

    def requests(
        self,
        kind: type = TrainRequest,
        *,
        deeds: dict[str, str] | None = None,
        ballast: int = 1,
        tensors: dict[str, torch.Tensor] | None = None,
        updates: int = 3,
        **fields: Any,
    ) -> dict[str, Any]:
        """One request a node; ``deeds``: what the plan does at some of them."""
        tensors = model(ballast) if tensors is None else tensors
        fields = {"round": 1} | fields if kind is not CheckRequest else fields
        made = {}
        for node_id in self.node_ids:
            deed = (deeds or {}).get(node_id, "")
            made[node_id] = kind(
                request_id=uuid.uuid4().hex,
                experiment_id=self.experiment_id,
                dataset_id=self.datasets[node_id].dataset_id,
                plan=PlanText(text=SOURCE.text, class_name=SOURCE.class_name),
                model_args={"deed": deed, "marks": str(self.marks), "ballast": ballast},
                training_args=TrainingArgs(batch_size=8, num_updates=updates),
                seed=3,
                tensors=tensors,
                **fields,
            )
        return made

    def everyone(self, deed: str) -> dict[str, str]:
        return dict.fromkeys(self.node_ids, deed)

    def marks_of(self, deed: str) -> int:
        return len(list(self.marks.glob(f"{deed}-*")))

    def wait_for(self, deed: str) -> None:
        """Until a plan has begun to do it."""
        while not self.marks_of(deed):
            time.sleep(0.01)

    def works(self) -> bool:
        """Whether all nodes train now."""
        return kinds(self.federation.send(self.requests())) == dict.fromkeys(self.node_ids, TrainReply)


def model(ballast: int = 1) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1, FEATURES, generator=generator)
    return {"ballast": torch.zeros(ballast), "model.weight": weight, "model.bias": torch.zeros(1)}


def by_node(replies: Iterable[Reply]) -> dict[str, Reply]:
    """The replies with tensors of their own; no node may answer twice."""
    found: dict[str, Reply] = {}
    for reply in replies:
        assert reply.node_id not in found
        own = {name: tensor.clone() for name, tensor in reply.tensors.items()}
        found[reply.node_id] = reply.model_copy(update={"tensors": own})
    return dict(sorted(found.items()))


def kinds(replies: Iterable[Reply]) -> dict[str, type]:
    return {node_id: type(reply) for node_id, reply in by_node(replies).items()}


@pytest.fixture
def ask(kit: Any, tmp_path: Path) -> Asking:
    return Asking(kit, tmp_path)


@pytest.fixture
def isolated(kit: Any) -> None:
    if not kit.isolated:
        pytest.skip("a plan that ends or blocks its process does the same to the researcher's, in process")


# ---- asking


def test_nodes_are_listed_by_id(ask: Asking) -> None:
    assert len(ask.node_ids) == 4
    assert ask.node_ids == sorted(ask.node_ids)
    assert all(node.name for node in ask.federation.nodes())


def test_search_finds_datasets_with_all_of_the_tags(ask: Asking) -> None:
    for tags, count in [((), 1), (("contract",), 1), (("contract", "no such tag"), 0)]:
        found = by_node(ask.federation.send(ask.search(*tags)))
        assert list(found) == ask.node_ids
        assert {len(r.datasets) for r in found.values() if isinstance(r, SearchReply)} == {count}


def test_replies_carry_the_ids_of_their_requests(ask: Asking) -> None:
    for requests in (ask.search(), ask.requests(CheckRequest), ask.requests()):
        found = by_node(ask.federation.send(requests))
        assert {n: r.request_id for n, r in found.items()} == {n: r.request_id for n, r in requests.items()}


def test_some_of_the_nodes_can_be_asked(ask: Asking) -> None:
    chosen = ask.node_ids[1::2]
    requests = {n: r for n, r in ask.requests().items() if n in chosen}
    assert list(by_node(ask.federation.send(requests))) == chosen
    assert not list(ask.federation.send({}))


def test_a_node_that_is_not_there_is_an_error_before_anything_is_sent(ask: Asking) -> None:
    requests = ask.requests(deeds=ask.everyone("print"))
    wrong = ask.node_ids[0] + "x"
    with pytest.raises(FederationError, match="there is no node") as caught:
        ask.federation.send(requests | {wrong: next(iter(requests.values()))})
    assert ask.node_ids[0] in caught.value.to_do
    with pytest.raises(FederationError, match="there is no node"), ask.federation.in_use([wrong]):
        pass
    assert not ask.marks_of("print")


def test_check_says_yes_where_a_plan_runs_and_no_where_it_does_not(ask: Asking) -> None:
    broken = ask.node_ids[2]
    found = by_node(ask.federation.send(ask.requests(CheckRequest, deeds={broken: "raise"})))
    for node_id, reply in found.items():
        assert isinstance(reply, CheckReply)
        assert all(item.ok for item in reply.items) == (node_id != broken)


# ---- training and evaluation


def test_training_gives_every_nodes_model_and_leaves_what_was_sent(ask: Asking) -> None:
    sent, before = model(), model()
    found = by_node(ask.federation.send(ask.requests(tensors=sent)))
    assert kinds(found.values()) == dict.fromkeys(ask.node_ids, TrainReply)
    assert all(torch.equal(sent[name], before[name]) for name in before)
    weights = [reply.tensors["model.weight"] for reply in found.values()]
    assert len({tuple(w.flatten().tolist()) for w in [*weights, before["model.weight"]]}) == 5


def test_the_same_requests_give_the_same_bits(ask: Asking) -> None:
    first, second = (by_node(ask.federation.send(ask.requests())) for _ in range(2))
    for node_id, reply in first.items():
        assert all(torch.equal(t, second[node_id].tensors[name]) for name, t in reply.tensors.items())


def test_evaluation_gives_metrics_and_their_counts(ask: Asking) -> None:
    requests = ask.requests(EvaluateRequest, split="test", metrics=("accuracy", "loss"))
    for node_id, reply in by_node(ask.federation.send(requests)).items():
        assert isinstance(reply, EvaluateReply)
        assert reply.num_samples == ask.datasets[node_id].num_test
        assert set(reply.metrics) == {"accuracy", "loss"}
        assert {name.partition("/")[0] for name in reply.tensors} == {"accuracy", "loss"}


def test_large_tensors_pass(ask: Asking) -> None:
    ballast = 50_000_000 // 4
    sent = model(ballast) | {"ballast": torch.linspace(-1, 1, ballast)}
    requests = {
        n: r for n, r in ask.requests(tensors=sent, ballast=ballast, updates=1).items() if n in ask.node_ids[:2]
    }
    count = 0
    for reply in ask.federation.send(requests):
        count += 1
        assert isinstance(reply, TrainReply)
        # One step of size 0.01 on the mean of squares.
        expected = sent["ballast"][::9999] * (1 - 0.01 * 2 / ballast)
        torch.testing.assert_close(reply.tensors["ballast"][::9999], expected)
    assert count == 2


# ---- what goes wrong


def test_a_plan_that_fails_at_one_node_is_a_failure_of_that_node(ask: Asking) -> None:
    bad = ask.node_ids[1]
    found = by_node(ask.federation.send(ask.requests(deeds={bad: "raise"})))
    assert list(found) == ask.node_ids
    assert [n for n, r in found.items() if isinstance(r, Failure)] == [bad]
    failure = found[bad]
    assert isinstance(failure, Failure)
    assert (failure.code, failure.stage) == ("training", "train")
    assert "this plan is broken" in failure.what
    assert "training_step" in failure.traceback


def test_a_dataset_that_a_node_does_not_have_is_a_failure(ask: Asking) -> None:
    requests = {n: r.model_copy(update={"dataset_id": "nothing"}) for n, r in ask.requests().items()}
    found = by_node(ask.federation.send(requests))
    assert list(found) == ask.node_ids
    assert all(isinstance(r, Failure) and "has no dataset 'nothing'" in r.what for r in found.values())


def test_a_plan_that_prints_harms_nothing(ask: Asking) -> None:
    found = kinds(ask.federation.send(ask.requests(deeds=ask.everyone("print"))))
    assert found == dict.fromkeys(ask.node_ids, TrainReply)
    assert ask.marks_of("print") == 4 * 3
    assert ask.works()


@pytest.mark.usefixtures("isolated")
def test_a_plan_that_reads_its_input_finds_it_empty(ask: Asking) -> None:
    found = kinds(ask.federation.send(ask.requests(deeds=ask.everyone("read"))))
    assert found == dict.fromkeys(ask.node_ids, TrainReply)
    assert ask.works()


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize(("deed", "how"), [("exit", "exit code 3"), ("killed", "SIGKILL")])
def test_a_worker_that_dies_is_a_failure_of_its_node(ask: Asking, deed: str, how: str) -> None:
    bad = ask.node_ids[2]
    found = by_node(ask.federation.send(ask.requests(deeds={bad: deed})))
    assert kinds(found.values()) == dict.fromkeys(ask.node_ids, TrainReply) | {bad: Failure}
    failure = found[bad]
    assert isinstance(failure, Failure)
    assert failure.code == "node"
    assert how in failure.what
    assert "new worker" in failure.to_do
    assert ask.works()


# ---- stopping


def test_nodes_that_are_late_fail_and_nobody_hangs(ask: Asking) -> None:
    requests = ask.requests(deeds=ask.everyone("slow"), updates=100_000)
    found = by_node(ask.federation.send(requests, time.monotonic() + 1.0))
    assert list(found) == ask.node_ids
    assert {r.code for r in found.values() if isinstance(r, Failure)} <= {"deadline"}
    assert kinds(found.values()) == dict.fromkeys(ask.node_ids, Failure)
    assert all("deadline passed" in r.what for r in found.values() if isinstance(r, Failure))
    assert ask.works()


def test_a_deadline_that_has_passed_lets_nobody_begin(ask: Asking) -> None:
    found = by_node(ask.federation.send(ask.requests(deeds=ask.everyone("print")), time.monotonic() - 1))
    assert {getattr(r, "code", "") for r in found.values()} == {"deadline"}
    assert list(found) == ask.node_ids
    assert not ask.marks_of("print")


@pytest.mark.usefixtures("isolated")
def test_a_step_that_never_ends_is_ended_after_the_deadline(ask: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_SECONDS", 0.2)
    assert ask.works()
    requests = ask.requests(deeds={ask.node_ids[0]: "sleep"})
    found = by_node(ask.federation.send(requests, time.monotonic() + 3.0))
    assert kinds(found.values()) == dict.fromkeys(ask.node_ids, TrainReply) | {ask.node_ids[0]: Failure}
    assert getattr(found[ask.node_ids[0]], "code", "") == "deadline"
    assert ask.works()


def test_cancel_from_another_thread_stops_after_a_batch(ask: Asking) -> None:
    def cancel() -> None:
        ask.wait_for("slow")
        ask.federation.cancel(ask.experiment_id)

    thread = threading.Thread(target=cancel)
    thread.start()
    found = by_node(ask.federation.send(ask.requests(deeds=ask.everyone("slow"), updates=100_000)))
    thread.join()
    assert list(found) == ask.node_ids
    assert {getattr(r, "code", "") for r in found.values()} == {"cancelled"}
    assert ask.works()


def test_cancel_of_another_experiment_stops_nothing(ask: Asking) -> None:
    replies = ask.federation.send(ask.requests())
    first = next(replies)
    ask.federation.cancel("another experiment")
    assert {type(reply) for reply in [first, *replies]} == {TrainReply}
    ask.federation.cancel(ask.experiment_id)  # nothing is under way, and nothing is to come
    assert ask.works()


def test_leaving_early_leaves_the_federation_usable(ask: Asking) -> None:
    for _ in ask.federation.send(ask.requests()):
        break
    assert ask.works()
    with suppress(ZeroDivisionError):
        for _ in ask.federation.send(ask.requests()):
            raise ZeroDivisionError
    assert ask.works()


def test_a_send_that_is_left_open_does_not_block_the_next(ask: Asking) -> None:
    opened = ask.federation.send(ask.requests())
    next(opened)
    assert ask.works()
    assert len(list(opened)) == 3


def test_closing_is_not_the_end(ask: Asking) -> None:
    ask.federation.close()
    ask.federation.close()
    assert ask.works()


def test_in_use_keeps_a_second_program_out(kit: Any, ask: Asking) -> None:
    if not kit.has_folders:
        with ask.federation.in_use(ask.node_ids):
            return
    folder = ask.federation.each_node()[0].folder
    program = (
        "import sys; from pathlib import Path; from polyclinic.node.node import Node\n"
        "with Node.open(Path(sys.argv[1])).in_use(): print('entered')"
    )
    command = [sys.executable, "-c", program, str(folder)]
    with ask.federation.in_use(ask.node_ids):
        with ask.federation.in_use(ask.node_ids):
            pass  # once more by the same program is no conflict
        refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert NodeInUse.__name__ in refused.stderr
    assert f"process {os.getpid()} (" in refused.stderr
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "entered\n"
