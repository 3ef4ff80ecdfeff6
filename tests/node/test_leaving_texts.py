"""Texts that leave: short ones of ours, and nothing that quotes somebody else."""

import math
from pathlib import Path

import pytest

from polyclinic.messages.replies import CheckItem, CheckReply, Failure
from polyclinic.messages.requests import CheckRequest
from polyclinic.node import leaving
from polyclinic.node.leaving_texts import progress_as_told, short, without_loss
from polyclinic.node.policy import Policy
from polyclinic.node.stop import Progress
from tests.node.governed import SECRET, dataset, request


def leave(asked, reply, policy=""):
    return leaving.check(
        Policy.parse(policy.encode()), asked, reply, None, sent=None, dataset=dataset(), into=Path("/nowhere")
    )


def failure(**fields):
    return Failure(**{"request_id": "r", "node_id": "n", "code": "training", "stage": "train", "what": "x"} | fields)


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("training", f"ValueError: could not convert {SECRET!r}"),
        ("node", f"OSError: {SECRET}"),
        ("diverged", f"batch 3 failed with RuntimeError: {SECRET}"),
        ("plan", f"Plan(model_args) failed: KeyError: {SECRET}"),
        (SECRET, f"KeyError: {SECRET}"),
    ],
    ids=range(5),
)
def test_what_a_foreign_error_says_stays(code, what):
    reply = failure(code=code, what=what, traceback=f"Traceback … {SECRET}", reference="12ab34cd", stage=f"{SECRET}")
    checked, _ = leave(request(), reply)
    assert "Jane" not in checked.model_dump_json()
    assert "the rest is in the node's failures.txt under reference 12ab34cd" in checked.what


def test_tracebacks_leave_where_the_policy_says_so():
    reply = failure(what="ValueError: no", traceback="Traceback", reference="12ab34cd")
    assert leave(request(), reply, "[leaves]\ntracebacks = true\n")[0] == reply


def test_without_logs_a_failure_says_its_code_only():
    reply = failure(code="config", what="no dataset 'x'", to_do="look", reference="12ab34cd")
    checked = leave(request(), reply, "[leaves]\nlogs = false\n")[0]
    assert checked.code == "config"
    assert checked.what == "what went wrong is not said; it is in the node's failures.txt under reference 12ab34cd"
    assert checked.to_do == ""


def test_a_failure_brings_no_tensors_and_no_long_texts():
    reply = failure(code="config", what="x" * 10_000, to_do="y" * 10_000, reference="z" * 5000, request_id="other")
    checked, left = leave(request(), reply)
    assert left == ()
    assert (len(checked.what), len(checked.to_do), checked.reference, checked.request_id) == (500, 500, "", "r")


def test_a_text_does_not_steer_the_readers_terminal_and_hides_nothing():
    assert short("\x1b[2Jgone\u202e\u200b") == "?[2Jgone??"
    assert short("second\nline") == "second\nline"
    assert short("x" * 501) == "x" * 499 + "…"


@pytest.mark.parametrize(
    ("detail", "shown"),
    [
        (f"KeyError: {SECRET}", "KeyError; what it says stays at the hospital"),
        (f"MyOwn: {SECRET}", "an error of the plan's own; what it says stays at the hospital"),
        (f"it failed: TypeError: {SECRET}. check it", "it failed: TypeError; what it says stays at the hospital"),
        ("node 'x' has no dataset 'y'. did you mean 'z'?", "node 'x' has no dataset 'y'. did you mean 'z'?"),
    ],
    ids=range(4),
)
def test_what_a_foreign_error_says_in_a_check_stays(detail, shown):
    reply = CheckReply(request_id="r", node_id="n", items=(CheckItem(name="plan", ok=False, detail=detail),))
    assert leave(request(CheckRequest), reply)[0].items[0].detail == shown
    open_one = leave(request(CheckRequest), reply, "[leaves]\ntracebacks = true\n")[0]
    assert open_one.items[0].detail == detail
    silent = leave(request(CheckRequest), reply, "[leaves]\nlogs = false\n")[0]
    assert silent.items[0].detail == "why is not said: the node's policy keeps it"


def test_the_loss_of_a_batch_of_few_is_not_told():
    items = (CheckItem(name="one step", ok=True, detail="loss 0.7 on one batch"),)
    reply = CheckReply(request_id="r", node_id="n", items=items)
    few = request(CheckRequest, args={"epochs": 1, "batch_size": 4})
    assert leave(few, reply)[0].items[0].detail == "one batch was trained"
    kept = leave(request(CheckRequest), reply, "[leaves]\nlosses = false\n")[0]
    assert kept.items[0].detail == "one batch was trained"


# ---- progress, which is told while a plan is at work


def told(loss=0.123456, *, batch=10, num_batches=50, policy="", args=None):
    asked = request(args=args or {"epochs": 1, "batch_size": 4})
    return progress_as_told(Policy.parse(policy.encode()), asked, dataset(), Progress(batch, num_batches, loss))


def test_the_mean_loss_is_told_to_three_digits():
    assert told() == Progress(10, 50, 0.123)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({"policy": "[leaves]\nlosses = false\n"}, False),
        ({"batch": 2}, False),  # 8 rows
        ({"batch": 3}, True),  # 12 rows
        ({"batch": 3, "policy": "[datasets.heart]\nminimum_training_rows = 13\n"}, False),
        ({"loss": math.inf}, False),
        ({"loss": math.nan}, False),
    ],
    ids=range(6),
)
def test_the_loss_of_few_rows_or_one_that_stays_is_not_told(given, shown):
    found = told(**given)
    assert math.isnan(found.loss) != shown
    assert (found.batch, found.num_batches) == (given.get("batch", 10), 50)


def test_numbers_without_end_are_not_told():
    found = without_loss(Progress(10**500, -(10**500), 1.0))
    assert (found.batch, found.num_batches) == (10**9, 0)
    assert math.isnan(found.loss)
