"""Each rule alone: who breaks it, who keeps it, and what is said. Figures are worked out by hand."""

from datetime import UTC, datetime

import pytest

from polyclinic.errors import PolicyInvalid
from polyclinic.messages.requests import ApprovalRequest, CheckRequest, EvaluateRequest, TrainRequest
from polyclinic.node import rules
from polyclinic.node.policy import Policy
from polyclinic.node.rules import Refusal, Usage
from tests.node.governed import dataset, request

every_kind = pytest.mark.parametrize(
    "kind", [TrainRequest, EvaluateRequest, CheckRequest, ApprovalRequest], ids=lambda kind: kind.__name__
)
NOON = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)


def case(policy="", asked=None, *, data=None, used=None, now=NOON):
    return {
        "policy": Policy.parse(policy.encode()),
        "researcher_id": "ada",
        "request": asked or request(),
        "dataset": data or dataset(),
        "used": used or Usage(),
        "now": now,
    }


def broken(*args, **given):
    found = case(*args, **given)
    refusals = rules.refusals(found.pop("policy"), **found)
    assert all(isinstance(one, Refusal) and one.why and one.to_do for one in refusals)
    return {one.rule: one.why for one in refusals}


@pytest.mark.parametrize(
    "kind", [TrainRequest, EvaluateRequest, CheckRequest, ApprovalRequest], ids=lambda k: k.__name__
)
def test_the_defaults_refuse_nothing_of_an_ordinary_request(kind):
    assert broken(asked=request(kind)) == {}


# ---- researchers and purposes


def test_who_is_not_listed_where_only_listed_ones_may():
    found = broken("only_listed_researchers = true\n[researchers.bob]\n")
    assert found == {"researchers": "ada is not listed at this node"}


def test_what_a_researcher_is_trusted_for():
    policy = "[researchers.ada]\ndatasets = ['lung']\npurposes = ['audit', 'quality']\n"
    assert broken(policy, request(purpose="research")) == {
        "researcher-datasets": "ada may not use dataset heart",
        "researcher-purposes": "purpose 'research' was given, ada is trusted for: audit, quality",
    }
    assert broken(policy.replace("lung", "heart"), request(purpose="audit")) == {}
    assert "no purpose was given" in broken(policy.replace("lung", "heart"))["researcher-purposes"]


def test_what_a_dataset_may_be_used_for():
    policy = "[datasets.heart]\npurposes = ['research']\n"
    assert broken(policy, request(purpose="research")) == {}
    assert broken(policy, request(purpose="sale")) == {
        "purposes": "purpose 'sale' was given, the dataset is for: research"
    }
    assert broken("[datasets.lung]\npurposes = ['research']\n", request(purpose="sale")) == {}
    assert list(broken("[datasets.heart]\npurposes = []\n", request(purpose="research"))) == ["purposes"]


# ---- rows


@pytest.mark.parametrize(("num_train", "refused"), [(9, True), (10, False)], ids=str)
def test_a_dataset_of_few_rows_trains_nothing(num_train, refused):
    found = broken(data=dataset(num_train=num_train))
    assert found == (
        {"minimum-training-rows": "the dataset has 9 training rows, at least 10 are needed"} if refused else {}
    )


@pytest.mark.parametrize(
    ("args", "rows"),
    [
        ({"epochs": 1, "batch_size": 1}, 100),
        ({"epochs": 1, "batch_size": 4, "dry_run": True}, 4),
        ({"num_updates": 1, "batch_size": 1}, 1),
        ({"num_updates": 3, "batch_size": 3}, 9),
        ({"num_updates": 2, "batch_size": 5}, 10),
        ({"num_updates": 1000, "batch_size": 32}, 100),
    ],
    ids=range(6),
)
def test_an_update_of_few_rows_is_refused_because_it_would_show_them(args, rows):
    found = broken(asked=request(args=args))
    why = f"an update is made of {rows} rows, at least 10 are needed"
    assert found == ({} if rows >= 10 else {"minimum-training-rows": why})


def test_an_evaluation_needs_no_training_rows_and_few_test_rows_refuse_nothing():
    assert broken(asked=request(EvaluateRequest), data=dataset(num_train=3, num_test=3)) == {}


# ---- rounds and hours


@pytest.mark.parametrize(("used", "refused"), [(49, False), (50, True)], ids=str)
def test_the_rounds_of_a_researcher(used, refused):
    found = broken("[every_dataset]\nmaximum_rounds = 50\n", used=Usage(rounds=used))
    why = "ada has used 50 of 50 rounds, and asks for 1 more"
    assert found == ({"rounds-per-researcher": why} if refused else {})


@pytest.mark.parametrize("kind", [CheckRequest, ApprovalRequest], ids=lambda k: k.__name__)
@pytest.mark.parametrize(
    ("limit", "used", "own", "refused"),
    [
        (10, 40, 0, False),
        (11, 40, 0, True),
        (11, 45, 5, True),
        (10, 45, 5, False),
        (None, 49, 0, False),
        (3, 50, 3, True),
    ],
    ids=range(6),
)
def test_before_it_runs_all_rounds_that_an_experiment_still_asks_for_count(kind, limit, used, own, refused):
    policy = "[every_dataset]\nmaximum_rounds = 50\n"
    found = broken(policy, request(kind, round_limit=limit), used=Usage(used, 0.0, own))
    assert list(found) == ["rounds-per-researcher"] * refused


def test_judging_a_model_takes_no_round():
    policy = "[every_dataset]\nmaximum_rounds = 50\n"
    assert broken(policy, request(EvaluateRequest), used=Usage(rounds=50)) == {}


@pytest.mark.parametrize(("seconds", "refused"), [(5399.0, False), (5400.0, True)], ids=str)
def test_the_hours_of_a_researcher(seconds, refused):
    found = broken("[every_dataset]\nmaximum_hours = 1.5\n", request(EvaluateRequest), used=Usage(seconds=seconds))
    assert found == ({"hours-per-researcher": "ada has used 1.5 of 1.5 hours"} if refused else {})


def test_the_hours_of_the_day_are_asked_for_work_and_not_for_a_question():
    policy = "[hours]\nranges = ['19:00-07:00']\ntime_zone = 'UTC'\n"
    why = "it is 12:00 there, work may begin at 19:00-07:00 (UTC)"
    for kind in (TrainRequest, EvaluateRequest, CheckRequest):
        assert broken(policy, request(kind)) == {"hours-of-the-day": why}
    assert broken(policy, request(ApprovalRequest)) == {}
    assert broken(policy, now=NOON.replace(hour=20)) == {}
    found = case(policy)
    assert rules.refusals(found.pop("policy"), **found)[0].to_do == "go on with it from 19:00"


# ---- privacy and what leaves


@pytest.mark.parametrize(
    "kind", [TrainRequest, EvaluateRequest, CheckRequest, ApprovalRequest], ids=lambda k: k.__name__
)
@pytest.mark.parametrize("demanded", ["secure-aggregation", "differential-privacy"])
def test_a_privacy_that_is_demanded_and_not_offered(kind, demanded):
    found = broken(f"[datasets.heart]\nprivacy = '{demanded}'\n", request(kind))
    assert found == {"privacy": f"the dataset demands {demanded}, which this experiment does not offer"}


def test_where_models_do_not_leave_only_an_evaluation_runs():
    policy = "[leaves]\nparameters = false\n"
    assert broken(policy) == {"parameters-leave": "trained models do not leave this node"}
    assert broken(policy, request(EvaluateRequest)) == {}


def test_metrics_that_may_not_leave_are_not_computed():
    policy = "[leaves]\nmetrics = ['accuracy', 'loss']\nlosses = false\n"
    assert broken(policy, request(EvaluateRequest, metrics=("accuracy",))) == {}
    assert broken(policy, request(EvaluateRequest, metrics=("roc_auc", "accuracy", "loss"))) == {
        "metrics-leave": "roc_auc, loss may not leave; what may: accuracy, loss, and no losses"
    }
    assert broken(policy, request(EvaluateRequest)) == {}  # the dataset's own: what of it may not leave is held back


# ---- what researchers see


def items(*args, **given):
    found = case(*args, **given)
    return rules.check_items(found.pop("policy"), **found)


def test_before_it_runs_one_line_tells_what_is_kept_and_what_it_leaves_over():
    (one,) = items("[every_dataset]\nmaximum_rounds = 50\n", request(CheckRequest, round_limit=8), used=Usage(rounds=2))
    assert (one.name, one.ok) == ("policy", True)
    for told in (
        "minimum-training-rows: an update is made of 100 rows, at least 10 are needed",
        "rounds-per-researcher: ada has used 2 of 50 rounds, and asks for 8 more",
        "minimum-test-rows: 40 rows, at least 10 are needed for metrics",
    ):
        assert told in one.detail
    assert "hours-per-researcher" not in one.detail  # what limits nothing is not told
    assert "stay there" not in one.detail


def test_before_it_runs_each_rule_that_would_refuse_has_its_row():
    policy = "[datasets.heart]\npurposes = ['research']\nmaximum_rounds = 5\n"
    first, second, rest = items(policy, request(CheckRequest, round_limit=8))
    assert (first.name, first.ok) == ("policy: purposes", False)
    assert first.detail == (
        "no purpose was given, the dataset is for: research; say what it is for: Experiment(…, purpose='research')"
    )
    assert (second.name, second.ok) == ("policy: rounds-per-researcher", False)
    assert "ada has used 0 of 5 rounds, and asks for 8 more" in second.detail
    assert rest.ok
    assert "purposes" not in rest.detail


def test_that_metrics_will_be_held_back_is_said_before():
    (one,) = items(data=dataset(num_test=9))
    assert "minimum-test-rows: 9 rows, at least 10 are needed for metrics: its metrics stay there" in one.detail


def test_nothing_of_others_is_told():
    policy = "[researchers.bob]\ndatasets = ['secret-one']\n[datasets.secret-two]\npurposes = ['secret-three']\n"
    assert "secret" not in "".join(item.detail for item in items(policy))


def test_a_policy_that_cannot_be_read_refuses_and_does_not_say_what_stands_in_it():
    refusal = rules.of_broken_file(PolicyInvalid("policy.toml: leaves.metrics: got 'x'", to_do="chmod go-w /srv/node"))
    assert refusal.rule == "policy-file"
    assert "leaves" not in refusal.why + refusal.to_do
    assert "/srv" not in refusal.why + refusal.to_do


def test_the_error_names_the_rules():
    found = case("[datasets.heart]\npurposes = ['research']\nminimum_training_rows = 500\n")
    err = rules.refused(rules.refusals(found.pop("policy"), **found), "Guy's")
    assert err.code == "policy"
    assert err.rules == ("purposes", "minimum-training-rows")
    assert err.where == {"stage": "policy"}
    assert 'node "Guy\'s" refuses this (purposes: no purpose was given' in err.what
    assert "minimum-training-rows: the dataset has 100 training rows, at least 500 are needed" in err.what
    assert "leave this node out" in err.to_do
