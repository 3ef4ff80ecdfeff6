"""Policy, approval and journal together, over a real node and its database."""

import json

import pytest
import torch
from sqlalchemy import select
from sqlalchemy.orm import Session

from polyclinic import tensors
from polyclinic.errors import ConfigError, NotApproved, PolicyRefused
from polyclinic.federation.places import create_nodes
from polyclinic.messages.replies import CheckReply, Failure, TrainReply
from polyclinic.messages.requests import ApprovalRequest, CheckRequest, PlanText, TrainRequest
from polyclinic.node.approvals import Approvals
from polyclinic.node.governance import Governance
from polyclinic.node.journal import Journal, JournalRow
from polyclinic.node.policy_file import write_policy
from tests.node.governed import request, trained

MODEL = {"weight": torch.ones(2, 3)}


class Case:
    """A node of 199 training rows, its governance, and what is asked of it."""

    def __init__(self, folder):
        (self.node,) = create_nodes(folder, "fed_heart_disease", centers=[0], tags=["heart"])
        self.governance = Governance(self.node, Journal(self.node.engine, folder=self.node.folder))
        self.approvals = Approvals(self.node.engine)
        self.folder, self.frames = folder, 0

    def asked(self, kind=TrainRequest, text="class Plan: pass", **fields):
        fields = {"plan": PlanText(text=text, class_name="Plan"), "round_limit": 2} | fields
        return request(kind).model_copy(update={"dataset_id": "fed-heart-disease-cleveland", **fields})

    def admit(self, asked):
        self.frames += 1
        return self.governance.admit("ada", "UADA", asked, f"../{self.frames}")

    def approve(self, **bounds):
        (waiting,) = self.approvals.all("pending")
        return self.approvals.approve(waiting, **bounds)

    def file(self, name, content):
        path = self.folder / name
        path.write_bytes(b"".join(bytes(part) for part in tensors.encode(content)))
        return path

    def journal(self):
        with Session(self.node.engine) as session:
            rows = session.execute(select(JournalRow.kind, JournalRow.facts).order_by(JournalRow.number)).all()
        return [(kind, json.loads(facts)) for kind, facts in rows]

    def kinds(self):
        return [kind for kind, _ in self.journal()]


@pytest.fixture
def case(tmp_path):
    return Case(tmp_path)


def test_what_was_not_approved_waits_and_does_not_run(case):
    with pytest.raises(
        NotApproved, match=r"plan Plan waits for the data manager of Cleveland since .* \(request "
    ) as e:
        case.admit(case.asked())
    (waiting,) = case.approvals.all("pending")
    assert e.value.to_do == f"They decide by: polyclinic node approve cleveland {waiting.id}"
    assert case.kinds()[1:] == ["request", "policy", "pending", "refused"]
    assert dict(case.journal())["refused"]["code"] == "not-approved"


def test_what_was_approved_runs_and_is_written_down_with_what_left(case):
    with pytest.raises(NotApproved):
        case.admit(case.asked())
    granted = case.approve()
    admission = case.admit(case.asked())
    assert admission.approval == granted.id
    sent, made = case.file("sent", MODEL), case.file("made", {"weight": torch.zeros(2, 3)})
    reply, leaves = case.governance.ended(admission, case.asked(), trained(), made, sent)
    assert isinstance(reply, TrainReply)
    assert torch.equal(tensors.load_file(leaves)["weight"], torch.zeros(2, 3))
    assert leaves.parent == case.node.folder / "leaving"
    assert case.approvals.find(granted.id).used == 1
    kinds, (last, facts) = case.kinds(), case.journal()[-1]
    assert kinds[-4:] == ["request", "admitted", "started", "ended"]
    assert last == "ended"
    assert (facts["outcome"], facts["rows"], facts["approval"]) == ("done", 90, granted.id)
    assert [row[:4] for row in facts["left"]] == [["weight", [2, 3], "F32", 24]]


def test_a_question_for_approval_runs_nothing_and_uses_nothing(case):
    reply = case.governance.approval("ada", "UADA", case.asked(ApprovalRequest))
    granted = case.approve()
    assert (reply.state, reply.asked) == ("pending", granted.id)
    assert "waits for the data manager" in reply.what
    assert case.governance.approval("ada", "UADA", case.asked(ApprovalRequest)).state == "approved"
    case.approvals.revoke(granted, "The study has ended.")
    reply = case.governance.approval("ada", "UADA", case.asked(ApprovalRequest))
    assert reply.state == "revoked"
    assert reply.what.endswith("The study has ended.")
    assert case.kinds()[1:] == ["policy", "pending"]


def test_revocation_wins_over_what_runs(case):
    with pytest.raises(NotApproved):
        case.admit(case.asked())
    granted = case.approve()
    admission = case.admit(case.asked())
    assert case.governance.stands(admission)
    case.approvals.revoke(granted, "No.")
    assert not case.governance.stands(admission)
    made = case.file("made", MODEL)
    reply, leaves = case.governance.ended(admission, case.asked(), trained(), made, case.file("sent", MODEL))
    assert isinstance(reply, Failure)
    assert (reply.code, reply.stage, leaves) == ("not-approved", "approval", None)
    assert list((case.node.folder / "leaving").iterdir()) == []
    assert case.approvals.find(granted.id).used == 0
    with pytest.raises(NotApproved, match="was revoked by the data manager of Cleveland"):
        case.admit(case.asked())


def test_more_than_was_asked_for_does_not_leave(case):
    write_policy(case.node.folder, b'approval = "off"\n')
    admission = case.admit(case.asked())
    made = case.file("made", {**MODEL, "image": torch.zeros(9)})
    reply, leaves = case.governance.ended(admission, case.asked(), trained(), made, case.file("sent", MODEL))
    assert isinstance(reply, Failure)
    assert (reply.code, leaves) == ("leaving", None)
    assert case.journal()[-1][1]["outcome"] == "refused"


def test_the_policy_is_asked_first_so_that_nothing_waits_that_would_be_refused(case):
    write_policy(case.node.folder, b"only_listed_researchers = true\n")
    with pytest.raises(PolicyRefused, match="ada is not listed at this node"):
        case.admit(case.asked())
    assert case.approvals.all() == []
    assert dict(case.journal())["refused"]["rules"] == ["researchers"]


def test_a_broken_policy_stops_all_work_and_is_written_down_once(case):
    write_policy(case.node.folder, b"aproval = 1\n")
    for _ in range(2):
        with pytest.raises(PolicyRefused, match="the node's policy cannot be read"):
            case.admit(case.asked())
    policies = [facts for kind, facts in case.journal() if kind == "policy"]
    assert [facts["valid"] for facts in policies] == [False]


def test_a_check_tells_of_policy_and_approval(case):
    with pytest.raises(NotApproved):
        case.admit(case.asked(CheckRequest))
    items = case.governance.check_items("ada", "UADA", case.asked(CheckRequest))
    assert [(item.name, item.ok) for item in items] == [("policy", True), ("approval", False)]
    case.approve()
    admission = case.admit(case.asked(CheckRequest))
    reply = CheckReply(request_id="r", node_id="n", items=())
    reply, leaves = case.governance.ended(admission, case.asked(CheckRequest), reply, None, None)
    assert isinstance(reply, CheckReply)
    assert [(item.name, item.ok) for item in reply.items] == [("policy", True), ("approval", True)]
    assert leaves is None


def test_a_dataset_that_is_not_there(case):
    with pytest.raises(ConfigError, match="has no dataset 'lungs'"):
        case.admit(case.asked(dataset_id="lungs"))
    assert case.kinds()[-1] == "refused"


def test_a_name_that_is_no_name_is_not_shown_as_it_is(case):
    plan = PlanText(text="class A: pass", class_name="A\u202e" + "b" * 500)
    with pytest.raises(NotApproved):
        case.admit(case.asked(plan=plan))
    name = dict(case.journal())["pending"]["plan_name"]
    assert name.startswith("A⟦U+202E⟧b")
    assert len(name) == 200
