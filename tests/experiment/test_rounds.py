"""One round, with nodes that answer in any order, fail, or send what does not fit."""

import itertools

import pytest
import torch

from polyclinic.aggregators import FedAverage
from polyclinic.errors import Cancelled, RoundFailed
from polyclinic.experiment.participants import Participant
from polyclinic.experiment.rounds import RoundSettings, for_each, in_node_order, run_round
from polyclinic.federation.federation import Federation, NodeInfo
from polyclinic.messages.replies import DatasetInfo, Failure, TrainReply
from polyclinic.messages.requests import CheckRequest, PlanText, TrainRequest
from polyclinic.messages.training_args import TrainingArgs

NAMES = {"a": "Ash", "b": "Birch", "c": "Cedar"}
BEGIN = {"w": torch.zeros(2), "counter": torch.tensor(3)}


class Scripted(Federation):
    """Gives these replies, in this order."""

    def __init__(self, *replies):
        self.replies = replies
        self.requests = None
        self.closed = False

    def nodes(self):
        return [NodeInfo(node_id, name) for node_id, name in NAMES.items()]

    def send(self, requests, deadline=None):
        self.requests, self.deadline = requests, deadline
        try:
            yield from self.replies
        finally:
            self.closed = True

    def cancel(self, experiment_id):
        raise AssertionError


def update(node_id, value, num_samples=10, loss=1.0, **tensors):
    return TrainReply(
        request_id="r",
        node_id=node_id,
        num_samples=num_samples,
        num_updates=1,
        loss=loss,
        seconds=0.5,
        notes=("a note",) if node_id == "b" else (),
        tensors={"w": torch.full((2,), value), "counter": torch.tensor(5)} | tensors,
    )


def failure(node_id, what="ValueError: no", *, code="training", to_do="mend the plan", traceback="Traceback: here\n"):
    return Failure(
        request_id="r", node_id=node_id, code=code, stage="train", what=what, to_do=to_do, traceback=traceback
    )


PARTICIPANTS = [
    Participant(
        node_id,
        name,
        DatasetInfo(dataset_id=f"d-{node_id}", name="d", dataset_kind="k", tags=(), num_train=10, num_test=1),
    )
    for node_id, name in NAMES.items()
]
REQUEST = TrainRequest(
    request_id="-",
    dataset_id="-",
    experiment_id="e",
    plan=PlanText(text="", class_name="Plan"),
    model_args={},
    training_args=TrainingArgs(epochs=1),
    seed=0,
    round=4,
    tensors=BEGIN,
)


def one_round(*replies, min_nodes=None, deadline_seconds=None, observers=()):
    federation = Scripted(*replies)
    settings = RoundSettings(min_nodes, deadline_seconds)
    return *run_round(REQUEST, PARTICIPANTS, federation, FedAverage(), settings, observers), federation


def test_every_node_gets_its_own_dataset_and_the_same_tensors():
    _, _, federation = one_round(*(update(node_id, 1.0) for node_id in NAMES))
    assert {n: r.dataset_id for n, r in federation.requests.items()} == {"a": "d-a", "b": "d-b", "c": "d-c"}
    assert len({request.request_id for request in federation.requests.values()}) == 3
    assert all(request.tensors["w"] is BEGIN["w"] for request in federation.requests.values())
    assert federation.deadline is None


def test_a_round_that_is_asked_for_again_has_the_same_request_ids_and_nothing_else_has():
    def ids(request):
        return {r.request_id for r in for_each(request, PARTICIPANTS).values()}

    first = ids(REQUEST)
    assert ids(REQUEST.model_copy(update={"tensors": {}, "seed": 99})) == first
    others = [{"round": REQUEST.round + 1}, {"experiment_id": "another"}]
    assert all(ids(REQUEST.model_copy(update=change)).isdisjoint(first) for change in others)
    fields = REQUEST.model_dump(exclude={"kind", "round", "plan", "training_args"})
    check = CheckRequest(**fields, plan=REQUEST.plan, training_args=REQUEST.training_args)
    assert len(ids(check) | ids(check) | first) == 9


def test_the_record_of_a_round():
    state, record, _ = one_round(
        update("a", 1.0, 30, loss=0.5), update("b", 3.0, 10, loss=1.5), update("c", 0.0, 20, loss=1.0)
    )
    assert state["w"].tolist() == [1.0, 1.0]  # (30 · 1 + 10 · 3 + 20 · 0) / 60
    assert state["counter"].item() == 5
    assert record.round == 4
    assert record.nodes == ("Ash", "Birch", "Cedar")
    assert [(r.node, r.split, r.metric, r.value, r.num_samples) for r in record.rows] == [
        ("Ash", "train", "loss", 0.5, 30),
        ("Birch", "train", "loss", 1.5, 10),
        ("Cedar", "train", "loss", 1.0, 20),
    ]
    assert {row.bytes for row in record.rows} == {2 * (2 * 4 + 8)}
    assert record.notes == ("Birch: a note",)
    assert record.score == pytest.approx(-(0.5 * 30 + 1.5 * 10 + 1.0 * 20) / 60)
    assert not record.tested


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_the_order_of_arrival_changes_nothing(order):
    # Numbers whose sum depends on its order, even in float64.
    replies = {"a": update("a", 1e20), "b": update("b", 1.0), "c": update("c", -1e20)}
    expected, record, _ = one_round(*replies.values())
    state, other, _ = one_round(*(replies[node_id] for node_id in order))
    assert torch.equal(state["w"], expected["w"])
    assert other.rows == record.rows


def test_early_replies_wait_for_their_turn():
    told = []

    def arriving():
        for node_id in "cab":
            told.append(f"{node_id} arrived")
            yield failure(node_id)

    told.extend(f"{reply.node_id} taken" for reply in in_node_order(arriving(), "bca"))
    assert told == ["c arrived", "a arrived", "a taken", "b arrived", "b taken", "c taken"]


def test_who_stops_taking_frees_the_federation():
    federation = Scripted(failure("a"), failure("b"))
    replies = in_node_order(federation.send({}), "ab")
    next(replies)
    assert not federation.closed
    replies.close()
    assert federation.closed


# ---- failures


def test_a_failed_node_is_a_row_of_the_record():
    state, record, _ = one_round(update("a", 1.0), failure("b"), update("c", 3.0), min_nodes=2)
    assert state["w"].tolist() == [2.0, 2.0]
    assert record.nodes == ("Ash", "Cedar")
    (row,) = record.failures
    assert row.model_dump() == {
        "node": "Birch",
        "code": "training",
        "stage": "train",
        "what": "ValueError: no",
        "to_do": "mend the plan",
    }


def test_a_round_with_too_few_nodes_names_them_and_says_what_to_do():
    with pytest.raises(RoundFailed) as caught:
        one_round(update("a", 1.0), failure("b"), update("c", 1.0))
    text = str(caught.value)
    assert "round 4: 2 of 3 nodes answered, 3 are needed" in text
    assert "node 'Birch' failed at stage 'train' (training): ValueError: no" in text
    assert "mend the plan; or set min_nodes to go on without a node that fails. run() goes on from the last" in text
    assert caught.value.__notes__ == ["At node 'Birch':\nTraceback: here"]


@pytest.mark.parametrize(("min_nodes", "fails"), [(1, False), (2, True), (3, True), (99, True)])
def test_the_quorum(min_nodes, fails):
    replies = failure("a"), update("b", 1.0), failure("c", traceback="")
    if not fails:
        assert one_round(*replies, min_nodes=min_nodes)[1].nodes == ("Birch",)
        return
    with pytest.raises(RoundFailed, match="1 of 3 nodes answered"):
        one_round(*replies, min_nodes=min_nodes)


def test_nobody_answered():
    with pytest.raises(RoundFailed, match="0 of 3 nodes answered, 1 are needed"):
        one_round(*(failure(node_id) for node_id in NAMES), min_nodes=1)


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        ({"w": torch.zeros(3)}, "node b sent tensor 'w' as torch.float32 (3,), the model has torch.float32 (2,)"),
        ({"w": torch.zeros(2, dtype=torch.float64)}, "node b sent tensor 'w' as torch.float64"),
        ({"extra": torch.zeros(1)}, "node b sent other tensors than the model has: extra"),
    ],
)
def test_an_update_that_does_not_fit_is_a_failed_node(bad, what):
    replies = update("a", 1.0), update("b", 100.0, **bad), update("c", 3.0)
    state, record, _ = one_round(*replies, min_nodes=2)
    assert state["w"].tolist() == [2.0, 2.0]  # nothing of it was added
    (row,) = record.failures
    assert (row.node, row.code, row.stage, row.to_do) == (
        "Birch",
        "aggregation",
        "aggregate",
        "the plan must build the same model at every node",
    )
    assert what in row.what
    with pytest.raises(RoundFailed, match="'Birch' failed at stage 'aggregate'"):
        one_round(*replies)


def test_a_cancel_ends_the_round_and_frees_the_federation():
    federation = Scripted(update("a", 1.0), failure("b", code="cancelled"), update("c", 1.0))
    with pytest.raises(Cancelled, match="round 4 was stopped on request") as caught:
        run_round(REQUEST, PARTICIPANTS, federation, FedAverage(), RoundSettings(1, None))
    assert federation.closed  # although the error, and with it the whole stack, is still held
    assert caught.value.to_do == "run() goes on from there"


def test_an_observer_that_fails_frees_the_federation():
    class Bad:
        def round_started(self, **_):
            pass

        def node_replied(self, **_):
            raise KeyError("mine")

    federation = Scripted(update("a", 1.0))
    with pytest.raises(KeyError, match="mine"):
        run_round(REQUEST, PARTICIPANTS, federation, FedAverage(), RoundSettings(1, None), [Bad()])
    assert federation.closed
