"""An experiment that waits for data managers, with a federation that answers as they would."""

import pytest

from polyclinic.errors import Cancelled, NotApproved, PolicyRefused, RoundFailed
from polyclinic.experiment import approval
from polyclinic.experiment.approval import Permission
from polyclinic.experiment.observers import Observer
from polyclinic.experiment.participants import Participant
from polyclinic.messages.replies import ApprovalReply, DatasetInfo, Failure
from polyclinic.messages.requests import ApprovalRequest
from tests.node.governed import request

INFO = DatasetInfo(dataset_id="heart", name="Heart", dataset_kind="tabular", tags=(), num_train=9, num_test=3)
NODES = [Participant("a", "A", INFO), Participant("b", "B", INFO)]


class Managers:
    """What each node answers, one answer a question; the last one stays."""

    asks_approval = True

    def __init__(self, **answers):
        self.answers, self.asked = {node: list(words) for node, words in answers.items()}, []

    def send(self, requests, deadline=None):
        for node_id, asked in requests.items():
            self.asked.append(node_id)
            words = self.answers[node_id]
            yield _reply(node_id, asked, words.pop(0) if len(words) > 1 else words[0])


def _reply(node_id, asked, word):
    told = {"request_id": asked.request_id, "node_id": node_id, "what": f"{node_id} says {word}", "to_do": "ask them"}
    if word in ("policy", "node"):
        return Failure(code=word, stage="policy", **told)
    return ApprovalReply(state=word, asked="3f2a", **told)


class Watching(Observer):
    def __init__(self):
        self.told = []

    def approval_awaited(self, *, node, what, to_do, **_):
        self.told.append((node, what, to_do))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(approval, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(approval, "_LOOK_SECONDS", 0.001)


def permission(managers, min_nodes=None, watching=None, is_cancelled=lambda: False):
    return Permission(request(ApprovalRequest), managers, min_nodes, [watching or Watching()], is_cancelled)


def ids(participants):
    return [p.node_id for p in participants]


def test_where_the_researcher_is_the_data_manager_nobody_is_asked():
    managers = Managers(a=["rejected"], b=["rejected"])
    managers.asks_approval = False
    assert permission(managers).ready(NODES) == NODES
    assert managers.asked == []


def test_it_waits_until_all_have_said_yes_and_tells_once_of_whom():
    managers, watching = Managers(a=["approved"], b=["pending", "pending", "approved"]), Watching()
    waiting = permission(managers, watching=watching)
    assert ids(waiting.ready(NODES)) == ["a", "b"]
    assert managers.asked == ["a", "b", "b", "b"]
    assert watching.told == [("B", "b says pending", "ask them")]
    assert ids(waiting.ready(NODES)) == ["a", "b"]
    assert len(managers.asked) == 4


def test_it_goes_on_with_enough_and_takes_up_the_others_later():
    waiting = permission(Managers(a=["approved"], b=["pending", "approved"]), min_nodes=1)
    assert ids(waiting.ready(NODES)) == ["a"]
    assert ids(waiting.ready(NODES)) == ["a", "b"]


@pytest.mark.parametrize(
    ("word", "error"), [("rejected", NotApproved), ("revoked", NotApproved), ("policy", PolicyRefused)]
)
def test_a_no_is_an_error_unless_the_others_are_enough(word, error):
    with pytest.raises(error, match=f"node 'B' failed at stage .* b says {word}"):
        permission(Managers(a=["approved"], b=[word])).ready(NODES)
    assert ids(permission(Managers(a=["approved"], b=[word]), min_nodes=1).ready(NODES)) == ["a"]


def test_a_no_ends_the_waiting_for_others_only_if_they_would_not_be_enough():
    with pytest.raises(NotApproved):
        permission(Managers(a=["pending"], b=["rejected"])).ready(NODES)
    assert ids(permission(Managers(a=["pending", "approved"], b=["rejected"]), min_nodes=1).ready(NODES)) == ["a"]


def test_a_node_that_is_away_is_left_to_the_round():
    assert ids(permission(Managers(a=["approved"], b=["node"])).ready(NODES)) == ["a", "b"]


def test_waiting_is_cancelled():
    with pytest.raises(Cancelled, match="waited for approval"):
        permission(Managers(a=["pending"], b=["pending"]), is_cancelled=lambda: True).ready(NODES)


def rounds(*ends):
    ends = list(ends)

    def do(ready):
        end = ends.pop(0)
        if isinstance(end, Exception):
            raise end
        return end, ids(ready)

    return do


def test_a_round_whose_approval_had_ended_is_tried_again_once_there_is_a_new_one():
    ended = RoundFailed("round 3", codes={"not-approved"})
    managers = Managers(a=["approved"], b=["approved", "pending", "approved"])
    assert permission(managers).round(NODES, rounds(ended, "done")) == ("done", ["a", "b"])


def test_a_round_that_is_refused_although_all_say_yes_is_not_tried_for_ever():
    ended = RoundFailed("round 3", codes={"not-approved"})
    with pytest.raises(RoundFailed):
        permission(Managers(a=["approved"], b=["approved"])).round(NODES, rounds(ended, ended))


def test_a_round_that_fails_otherwise_fails():
    with pytest.raises(RoundFailed):
        permission(Managers(a=["approved"], b=["approved"])).round(NODES, rounds(RoundFailed("x", codes={"training"})))
