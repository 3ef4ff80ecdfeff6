"""Which worker does what, and what happens where none may or does not end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from polyclinic.errors import SandboxError
from polyclinic.federation.over_nats.boxes import Boxes
from polyclinic.messages.replies import Failure, TrainReply
from polyclinic.node import sandbox
from polyclinic.node.cgroups import Groups
from tests.node.governed import request
from tests.node.hostile import Hospital

LIMITS_ONLY = 'sandbox = "limits-only"\n'


@pytest.fixture
def boxes_under(tmp_path: Path) -> Iterator[Any]:
    made: list[Boxes] = []

    def boxes_under(policy: str) -> tuple[Boxes, Any]:
        hospital = Hospital(tmp_path, policy)
        made.append(Boxes(hospital.node, hospital.folder / "work"))
        return made[0], hospital.node.registry.datasets()[0]

    yield boxes_under
    for boxes in made:
        boxes.end()


def of(experiment: str) -> Any:
    return request().model_copy(update={"experiment_id": experiment})


def test_with_limits_only_a_researcher_has_one_worker_and_another_has_another(boxes_under: Any) -> None:
    boxes, dataset = boxes_under(LIMITS_ONLY)
    first = boxes.take("ada", of("e1"), dataset)
    assert boxes.take("ada", of("e2"), dataset) is first
    assert boxes.take("bob", of("e1"), dataset).worker.pid != first.worker.pid
    assert first.folder != boxes.take("bob", of("e1"), dataset).folder


@pytest.mark.skipif(bool(sandbox.problem()), reason=sandbox.problem() or "sandbox works")
def test_in_a_sandbox_each_experiment_has_its_own_worker(boxes_under: Any) -> None:
    boxes, dataset = boxes_under("")
    first = boxes.take("ada", of("e1"), dataset)
    assert boxes.take("ada", of("e1"), dataset) is first
    second = boxes.take("ada", of("e2"), dataset)
    assert second.worker.pid != first.worker.pid
    assert second.box.state != first.box.state


def test_an_experiment_whose_id_is_no_name_of_a_folder_is_refused(boxes_under: Any) -> None:
    boxes, dataset = boxes_under(LIMITS_ONLY)
    with pytest.raises(SandboxError, match="no name for a folder"):
        boxes.take("ada", of("../../keys"), dataset)


def test_without_bubblewrap_nothing_runs_and_the_node_says_why(
    boxes_under: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    boxes, dataset = boxes_under("")
    sandbox._looked.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    try:
        assert "all work is refused" in boxes.describe()
        with pytest.raises(SandboxError, match="bubblewrap is not installed") as caught:
            boxes.take("ada", of("e1"), dataset)
        assert caught.value.code == "sandbox"
        assert caught.value.to_do
    finally:
        sandbox._looked.cache_clear()
    assert "plans run with limits only" in _described(boxes, LIMITS_ONLY)


@pytest.mark.skipif(bool(sandbox.problem()), reason=sandbox.problem() or "sandbox works")
def test_where_the_sandbox_cannot_run_this_python_the_node_says_so(
    boxes_under: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    boxes, _ = boxes_under("")
    sandbox._looked.cache_clear()
    monkeypatch.setattr("sys.executable", str(tmp_path / "python3"))
    try:
        assert "all work is refused" in boxes.describe()
        assert "python3" in boxes.describe()
    finally:
        sandbox._looked.cache_clear()


def test_a_node_says_whether_control_groups_hold_what_plans_use(boxes_under: Any, tmp_path: Path) -> None:
    boxes, _ = boxes_under(LIMITS_ONLY)
    boxes._groups = None
    assert "watched, as no control group is delegated to the node" in boxes.describe()
    boxes._groups = Groups(tmp_path, ("memory", "pids"))
    assert "held by control groups (memory, pids)" in boxes.describe()


def _described(boxes: Boxes, policy: str) -> str:
    (boxes._folder / "policy.toml").write_text(policy)
    return boxes.describe()


def test_work_that_takes_too_long_is_ended_and_the_next_is_done(tmp_path: Path) -> None:
    hospital = Hospital(tmp_path, f"{LIMITS_ONLY}\n[resources]\nwall_hours = 0.006\n")  # 22 s
    try:
        reply = hospital.run("import time; time.sleep(999)").reply
        assert isinstance(reply, Failure)
        assert "more than 0.006 hours" in reply.what
        assert isinstance(hospital.run("").reply, TrainReply)
    finally:
        hospital.workshop.end()
