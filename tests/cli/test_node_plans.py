"""The data manager's commands over a real node."""

import json

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from polyclinic.cli import app
from polyclinic.datasets.baseline_plan import BaselinePlan
from polyclinic.errors import ConfigError
from polyclinic.federation.places import create_nodes
from polyclinic.messages.requests import ApprovalRequest, PlanText
from polyclinic.node.approvals import Approvals
from polyclinic.node.journal import JournalRow
from polyclinic.plans.source import extract_source
from tests.node.governed import request

TEXT = "import socket\n\n\nclass Plan:\n    size = '\u202e1'\n"


@pytest.fixture
def node(tmp_path):
    (node,) = create_nodes(tmp_path, "fed_heart_disease", centers=[0], tags=["heart"])
    return node


@pytest.fixture
def approvals(node):
    return Approvals(node.engine)


@pytest.fixture
def waiting(node, approvals):
    return approvals.look("ada", "UADA", asked(node))[0]


def asked(node, text=TEXT, **fields):
    fields = {"plan": PlanText(text=text, class_name="Plan"), "round_limit": 5, "message": "[b]For[/b] us"} | fields
    dataset_id = node.registry.datasets()[0].dataset_id
    return request(ApprovalRequest).model_copy(update={"dataset_id": dataset_id, **fields})


def said(tmp_path, *words):
    done = CliRunner().invoke(app, ["node", *words, "--at", str(tmp_path)], env={"COLUMNS": "200"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def kinds(node):
    with Session(node.engine) as session:
        rows = session.execute(select(JournalRow.kind, JournalRow.facts).order_by(JournalRow.number)).all()
    return [(kind, json.loads(facts)) for kind, facts in rows if kind in ("approved", "rejected", "revoked")]


def test_the_list(tmp_path, approvals, waiting, node):
    assert waiting.id in said(tmp_path, "plans", "cleveland", "--pending")
    approvals.approve(waiting)
    assert said(tmp_path, "plans", "cleveland", "--pending") == "Nothing waits.\n"
    assert "0 of 5" in said(tmp_path, "plans", "list", "cleveland")


def test_the_page_of_a_plan(tmp_path, approvals, waiting, node):
    approvals.approve(waiting)
    other = approvals.look("ada", "UADA", asked(node, TEXT.replace("1", "2")))[0]
    page = said(tmp_path, "plans", "show", "cleveland", other.id)
    for words in (
        "ada, public key UADA",
        "[b]For[/b] us",
        "199 rows to train on, 104 to test on",
        "epochs=1",
        "line 1: imports socket, which is about the network",
        "line 5: holds the character U+202E",
        "⟦U+202E⟧2",
        f"Another plan has the same name and another text: {waiting.id} (approved)",
        f"What is different from {waiting.id}",
        "-    size = '⟦U+202E⟧1'",
        "+    size = '⟦U+202E⟧2'",
    ):
        assert words in page
    assert "\u202e" not in page


def test_yes_and_no_are_said_and_written_down(tmp_path, approvals, waiting, node):
    told = said(tmp_path, "approve", "cleveland", waiting.id, "--rounds", "3", "--until", "2099-01-31")
    assert "for researcher ada (key UADA)" in told
    assert "3 rounds in all (0 used)" in told
    found = approvals.find(waiting.id)
    assert (found.state, found.rounds) == ("approved", 3)
    assert found.until.astimezone().strftime("%Y-%m-%d %H:%M") == "2099-02-01 00:00"
    assert said(tmp_path, "revoke", "cleveland", waiting.id) == f"Revoked: {waiting.id}.\n"
    assert approvals.find(waiting.id).state == "revoked"
    other = approvals.look("ada", "UADA", asked(node, model_args={"a": 1}))[0]
    said(tmp_path, "reject", "cleveland", other.id, "--reason", "No.")
    assert approvals.find(other.id).note == "No."
    assert [(kind, facts["approval"]) for kind, facts in kinds(node)] == [
        ("approved", waiting.id),
        ("revoked", waiting.id),
        ("rejected", other.id),
    ]


def test_whoever_revokes_is_told_what_else_covers_the_plan(tmp_path, approvals, waiting, node):
    approvals.approve(waiting)
    wider = approvals.look("ada", "UADA", asked(node, model_args={"a": 1}))[0]
    approvals.approve(wider, any_arguments=True)
    assert f"approved as well by {wider.id}" in said(tmp_path, "revoke", "cleveland", waiting.id)


def test_an_installed_plan_is_approved_by_name(tmp_path, approvals, node):
    assert "for every trusted researcher" in said(tmp_path, "approve", "cleveland", "--installed", "fed_heart_disease")
    source = extract_source(BaselinePlan)
    plan = PlanText(text=source.text, class_name=source.class_name)
    arguments = {"dataset": "fed_heart_disease"}
    assert approvals.look("bob", "UBOB", asked(node, plan=plan, model_args=arguments))[0].state == "approved"
    with pytest.raises(ConfigError, match="has no dataset made by fed_ixi"):
        said(tmp_path, "approve", "cleveland", "--installed", "fed_ixi")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("approve", "cleveland"), "an ID or --installed"),
        (("approve", "cleveland", "zz"), "there is no request 'zz'"),
        (("approve", "cleveland", "zz", "--dataset", "lungs"), "unknown dataset 'lungs'"),
        (("plans", "show", "cleveland", "zz"), "there is no request 'zz'"),
    ],
    ids=["neither", "id", "dataset", "show"],
)
def test_what_is_not_there(tmp_path, node, words, what):
    with pytest.raises(ConfigError, match=what):
        said(tmp_path, *words)
