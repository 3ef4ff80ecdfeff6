"""Nothing runs at a hospital before its data manager has said yes, and nothing goes on after a no: whole programs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polyclinic import Experiment
from polyclinic.errors import Cancelled, EvaluationError, NotApproved
from polyclinic.experiment.observers import Observer
from polyclinic.federation.try_out import OPEN
from polyclinic.node.approvals import Approvals
from polyclinic.node.asked import Asked
from polyclinic.node.database import database_of
from polyclinic.node.policy_file import write_policy
from tests.system.hospitals import NAMES, NODES, ROUNDS, Hospitals, assert_same_end, experiment, in_background, until


@pytest.fixture
def strict(hospitals: Hospitals) -> Iterator[Hospitals]:
    """The hospitals, which ask their data managers."""
    policy = OPEN.replace('approval = "off"', 'approval = "required"')
    for node in NODES:
        write_policy(hospitals.tries.place / node, policy.encode())
    yield hospitals
    for node in NODES:
        write_policy(hospitals.tries.place / node, OPEN.encode())


class Waiting(Observer):
    """Notes who is waited for."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def approval_awaited(self, **facts: Any) -> None:
        self.told.append(facts)


def command(hospitals: Hospitals, *words: str) -> str:
    """What a data manager types, and reads."""
    run = [sys.executable, "-m", "polyclinic", "node", *words, "--at", str(hospitals.tries.place)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "COLUMNS": "200"}
    done = subprocess.run(run, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def approvals(hospitals: Hospitals, node: str) -> Approvals:
    return Approvals(database_of(hospitals.tries.place / node))


def of(found: Experiment, hospitals: Hospitals, node: str) -> list[Asked]:
    """What an experiment has asked for at a node."""
    marks = found.info()["model_args"]["marks"], found.info()["model_args"]["ballast"]
    asked = approvals(hospitals, node).all()
    return [
        one for one in asked if (one.arguments["model_args"]["marks"], one.arguments["model_args"]["ballast"]) == marks
    ]


def asking(hospitals: Hospitals, folder: Path, ballast: int, **settings: Any) -> tuple[Experiment, Waiting]:
    """An experiment that is told from those of other tests by the size of its ballast."""
    found = experiment(hospitals.federation, folder / "run", hospitals.marks, ballast=ballast, **settings)
    watching = Waiting()
    found._observers = [watching]
    return found, watching


def test_an_experiment_waits_is_looked_at_is_approved_and_goes_on_by_itself(
    strict: Hospitals, expected: Experiment, tmp_path: Path
) -> None:
    found, watching = asking(strict, tmp_path, 300_000, message="For the heart study")

    report = found.check()
    rows = {(node, name): (ok, detail) for node, name, ok, detail in report.rows}
    assert not report.ok
    assert strict.steps() == 0
    with pytest.raises(EvaluationError, match=f"waits for the data manager of {NAMES[0]} since"):
        found.evaluate()
    ids = {}
    for node, name in zip(NODES, NAMES, strict=True):
        (asked,) = of(found, strict, node)
        ids[node] = asked.id
        ok, detail = rows[name, "approval"]
        assert not ok
        assert f"waits for the data manager of {name} since {asked.since:%Y-%m-%d %H:%M} UTC" in detail
        assert f"polyclinic node approve {node} {asked.id}" in detail

    end = in_background(found.run)
    until(lambda: len(watching.told) == 2, "the waiting")
    assert [told["node"] for told in watching.told] == list(NAMES)
    assert f"polyclinic node approve {NODES[1]} {ids[NODES[1]]}" in watching.told[1]["to_do"]

    assert ids[NODES[0]] in command(strict, "plans", NODES[0], "--pending")
    page = command(strict, "plans", "show", NODES[0], ids[NODES[0]])
    assert "class Plan(TorchTrainingPlan):" in page
    assert "For the heart study" in page
    assert "imports os, which is about files" in page
    assert found.info()["plan_sha256"] in page
    for node in NODES:
        said = command(strict, "approve", node, ids[node])
        assert f"{ROUNDS} rounds in all (0 used)" in said
    assert end() is None
    assert_same_end(found, expected)
    assert [of(found, strict, node)[0].used for node in NODES] == [ROUNDS, ROUNDS]
    # Judging uses no round: it may be done when they are used up.
    # This plan predicts no probabilities, which only shows once it is run.
    with pytest.raises(EvaluationError, match="lie outside"):
        found.evaluate()


def test_a_no_is_an_error_with_the_reason(strict: Hospitals, tmp_path: Path) -> None:
    found, watching = asking(strict, tmp_path, 11)
    end = in_background(found.run)
    until(lambda: watching.told, "the waiting")
    command(strict, "reject", NODES[1], of(found, strict, NODES[1])[0].id, "--reason", "Please without ages.")
    error = end()
    assert isinstance(error, NotApproved)
    assert "Please without ages." in str(error)
    assert f"{NAMES[1]!r}" in str(error)
    assert strict.steps() == 0


def test_those_who_said_yes_go_on_if_they_are_enough(strict: Hospitals, tmp_path: Path) -> None:
    found, watching = asking(strict, tmp_path, 12, min_nodes=1, round_limit=2)
    end = in_background(found.run)
    until(lambda: len(watching.told) == 2, "the waiting")
    at_first = approvals(strict, NODES[0])
    at_first.approve(of(found, strict, NODES[0])[0])
    assert end() is None
    assert [record.nodes for record in found.records[1:]] == [(NAMES[0],), (NAMES[0],)]


def test_waiting_is_stopped_on_request_and_does_not_count_for_the_deadline(strict: Hospitals, tmp_path: Path) -> None:
    found, watching = asking(strict, tmp_path, 13, deadline_seconds=0.5)
    end = in_background(found.run)
    until(lambda: watching.told, "the waiting")
    found.cancel()
    assert isinstance(end(), Cancelled)


def test_what_runs_under_a_revoked_approval_is_stopped(strict: Hospitals, tmp_path: Path) -> None:
    long = {"batch_size": 16, "num_updates": 100_000}
    found, watching = asking(strict, tmp_path, 14, training_args=long)
    strict.wait(True)
    (strict.marks / "stoppable").touch()
    end = in_background(found.run)
    until(lambda: len(watching.told) == 2, "the waiting")
    for node in NODES:
        approvals(strict, node).approve(of(found, strict, node)[0])
    strict.training()
    command(strict, "revoke", NODES[0], of(found, strict, NODES[0])[0].id, "--reason", "The study has ended.")
    until(lambda: strict.status(NODES[0]).task is None, "the end of the task")
    strict.wait(False)
    found.cancel()
    error = end()
    assert isinstance(error, NotApproved | Cancelled)
    assert found.round == 0
    with pytest.raises(NotApproved, match=r"was revoked by .*The study has ended\."):
        found.run()
