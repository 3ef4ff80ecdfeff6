"""Approvals over a real database: what they bind, and that whatever differs is a new request."""

from datetime import UTC, datetime, timedelta

import pytest

from polyclinic.errors import ConfigError, NotApproved
from polyclinic.messages.requests import EvaluateRequest, LocalRule, PlanText, TrainRequest
from polyclinic.node import approvals as module
from polyclinic.node import asked as asked_module
from polyclinic.node.approvals import Approvals
from polyclinic.node.asked import plan_digest
from polyclinic.node.database import open_database
from tests.node.governed import request as asking

KEY = "UADA"
TEXT = "class Plan:\n    rate = 1\n"


def request(kind=TrainRequest, **fields):
    fields = {"round_limit": 5, "model_args": {"size": 1}, "plan": PlanText(text=TEXT, class_name="Plan")} | fields
    args = fields.pop("args", {"epochs": 2, "lr": 0.1})
    return asking(kind, args=args).model_copy(update=fields)


@pytest.fixture
def approvals(tmp_path):
    return Approvals(open_database(tmp_path / "node.sqlite"))


@pytest.fixture
def approved(approvals):
    first, _ = approvals.look("ada", KEY, request())
    return approvals.approve(first)


def use(approvals, name):
    with approvals._engine.begin() as connection:
        approvals.use(connection, name)


def state(approvals, researcher="ada", key=KEY, **fields):
    return approvals.look(researcher, key, request(**fields))[0].state


# ---- pending


def test_what_is_asked_for_the_first_time_waits_and_is_kept_once(approvals):
    first, is_new = approvals.look("ada", KEY, request(message="For the study"))
    assert (first.state, is_new, first.asked_rounds, first.datasets) == ("pending", True, 5, ("heart",))
    again, is_new = approvals.look("ada", KEY, request(message="For the heart study"))
    assert (again.id, is_new) == (first.id, False)
    assert [one.message for one in approvals.all("pending")] == ["For the heart study"]
    assert approvals.text(first.plan_sha256) == TEXT


def test_ids_are_short_and_found_by_their_beginning(approvals):
    first, _ = approvals.look("ada", KEY, request())
    assert len(first.id) == 4
    assert approvals.find(first.id[:3]) == first
    with pytest.raises(ConfigError, match="there is no request 'zz' at this node"):
        approvals.find("zz")
    with pytest.raises(ConfigError):
        approvals.find("")


def test_one_researcher_cannot_fill_the_disk(approvals, monkeypatch):
    monkeypatch.setattr(module, "_MAX_WAITING", 2)
    for size in (1, 2):
        approvals.look("ada", KEY, request(model_args={"size": size}))
    with pytest.raises(NotApproved, match="2 requests of researcher ada wait"):
        approvals.look("ada", KEY, request(model_args={"size": 3}))
    assert approvals.look("bob", "UBOB", request())[1]


# ---- what an approval binds


def test_exactly_what_was_approved_may_run(approvals, approved):
    assert state(approvals) == "approved"
    assert approvals.look("ada", KEY, request(kind=EvaluateRequest))[0].id == approved.id
    assert approved.until - datetime.now(UTC) > timedelta(days=89)


OTHER = {
    "one byte of the text": {"plan": PlanText(text=TEXT.replace("1", "2"), class_name="Plan")},
    "a blank at its end": {"plan": PlanText(text=TEXT + " ", class_name="Plan")},
    "the class": {"plan": PlanText(text=TEXT, class_name="Plan2")},
    "a model argument": {"model_args": {"size": 2}},
    "true in place of 1": {"model_args": {"size": True}},
    "1.0 in place of 1": {"model_args": {"size": 1.0}},
    "one argument more": {"model_args": {"size": 1, "path": "/"}},
    "the learning rate": {"args": {"epochs": 2, "lr": 0.2}},
    "more epochs": {"args": {"epochs": 3, "lr": 0.1}},
    "updates in place of epochs": {"args": {"num_updates": 1, "lr": 0.1}},
    "the dataset": {"dataset_id": "lungs"},
    "more rounds": {"round_limit": 6},
    "a local rule": {"local_rule": LocalRule(name="proximal", numbers={"mu": 0.1})},
    "local layers": {"local_layers": ("model.0",)},
    "the purpose": {"purpose": "marketing"},
    "the researcher": {"researcher": "bob"},
    "the key": {"key": "UBOB"},
    "both": {"researcher": "bob", "key": "UBOB"},
    "fine-tuning": {"kind": EvaluateRequest, "fine_tune": 1},
}


@pytest.mark.parametrize("what", OTHER, ids=lambda what: what.replace(" ", "-"))
def test_whatever_differs_waits_anew(approvals, approved, what):
    assert state(approvals, **OTHER[what]) == "pending"
    assert state(approvals) == "approved"


def test_less_is_allowed(approvals, approved):
    assert state(approvals, args={"epochs": 1, "lr": 0.1}) == "approved"
    assert state(approvals, round_limit=4) == "approved"


def test_rounds_are_used_up(approvals, approved):
    for _ in range(5):
        assert state(approvals) == "approved"
        use(approvals, approved.id)
    assert approvals.find(approved.id).standing == "ended"
    new, is_new = approvals.look("ada", KEY, request())
    assert (new.state, is_new) == ("pending", True)
    assert new.id != approved.id
    assert approvals.look("ada", KEY, request(kind=EvaluateRequest), trains=False)[0].id == approved.id


def test_fewer_rounds_than_asked_for_can_be_granted(approvals):
    first, _ = approvals.look("ada", KEY, request())
    granted = approvals.approve(first, rounds=1)
    assert state(approvals) == "approved"
    use(approvals, granted.id)
    assert state(approvals) == "pending"


def test_it_ends(approvals, approved, monkeypatch):
    later = approved.until.timestamp()
    monkeypatch.setattr(asked_module.time, "time", lambda: later - 1)
    assert state(approvals) == "approved"
    assert approvals.stands(approved.id)
    monkeypatch.setattr(asked_module.time, "time", lambda: later)
    assert not approvals.stands(approved.id)
    assert state(approvals) == "pending"


def test_any_arguments_leave_bound_what_leaves(approvals):
    first, _ = approvals.look("ada", KEY, request())
    approvals.approve(first, any_arguments=True, datasets=["heart", "lungs"])
    assert state(approvals, model_args={"size": 9}, args={"num_updates": 3}, dataset_id="lungs") == "approved"
    assert state(approvals, local_layers=("model.0",)) == "pending"
    assert state(approvals, purpose="marketing") == "pending"


@pytest.mark.parametrize(
    ("bounds", "what"),
    [({"until": datetime(2020, 1, 1, tzinfo=UTC)}, "is over"), ({"rounds": -1}, "how many rounds")],
    ids=["past", "rounds"],
)
def test_bounds_that_are_none(approvals, bounds, what):
    first, _ = approvals.look("ada", KEY, request())
    with pytest.raises(ConfigError, match=what):
        approvals.approve(first, **bounds)


def test_without_a_number_of_rounds_one_must_be_given(approvals):
    first, _ = approvals.look("ada", KEY, request(round_limit=None))
    with pytest.raises(ConfigError, match="how many rounds"):
        approvals.approve(first)
    assert approvals.approve(first, rounds=3).rounds == 3


# ---- no


def test_a_no_stays_until_the_data_manager_changes_their_mind(approvals):
    first, _ = approvals.look("ada", KEY, request())
    approvals.reject(first, "Too many rounds.")
    again, is_new = approvals.look("ada", KEY, request())
    assert (again.id, again.state, again.note, is_new) == (first.id, "rejected", "Too many rounds.", False)
    approvals.approve(approvals.find(first.id))
    assert state(approvals) == "approved"


def test_a_revoked_approval_does_not_stand(approvals, approved):
    approvals.revoke(approved, "The study has ended.")
    assert not approvals.stands(approved.id)
    again, is_new = approvals.look("ada", KEY, request())
    assert (again.state, again.note, is_new) == ("revoked", "The study has ended.", False)


def test_a_yes_that_was_thought_over_does_not_take_back_a_no_that_came_meanwhile(approvals, approved):
    as_read = approvals.find(approved.id)
    other_program = Approvals(approvals._engine)
    other_program.revoke(other_program.find(approved.id), "No.")
    with pytest.raises(ConfigError, match="decided by somebody else meanwhile"):
        approvals.approve(as_read, rounds=100)
    assert state(approvals) == "revoked"


def test_only_what_waits_is_rejected_and_only_what_is_approved_is_revoked(approvals, approved):
    with pytest.raises(ConfigError, match="does not wait: it is approved"):
        approvals.reject(approved, "No.")
    waiting, _ = approvals.look("ada", KEY, request(model_args={}))
    with pytest.raises(ConfigError, match="is not approved: it is pending"):
        approvals.revoke(waiting, "No.")


# ---- plans that come with the installation


def test_an_installed_plan_is_approved_for_all_with_any_training_args(approvals, monkeypatch):
    plan = request().plan
    granted = approvals.approve_installed(plan, {"model_args": {"size": 1}}, ["heart"], rounds=100)
    again = approvals.approve_installed(plan, {"model_args": {"size": 1}}, ["heart"], rounds=200)
    assert (again.id, again.rounds) == (granted.id, 200)
    assert state(approvals, "bob", "UBOB", args={"num_updates": 7}) == "approved"
    assert state(approvals, model_args={"size": 2}) == "pending"
    assert state(approvals, dataset_id="lungs") == "pending"
    monkeypatch.setattr("polyclinic.__version__", "99.0")
    assert state(approvals, "bob", "UBOB") == "pending"


def test_name_and_text_do_not_run_together():
    one = PlanText(class_name="A", text="B\nC")
    other = PlanText(class_name="A\nB", text="C")
    assert plan_digest(one) != plan_digest(other)
