"""A hospital's policy in a running federation: who is told of it, what it stops, and what it keeps back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from sqlalchemy import Engine
from torch import nn
from typer.testing import CliRunner

from polyclinic import Experiment, TorchTrainingPlan
from polyclinic.cli import app
from polyclinic.errors import PolicyRefused, PolyclinicError, RoundFailed
from polyclinic.federation.try_out import OPEN
from polyclinic.node.node import Node
from polyclinic.node.policy_file import POLICY_FILE, write_policy
from polyclinic.node.usage import UsageAccount
from tests.system.hospitals import NAMES, NODES, Hospitals, assert_same_end, experiment

FIRST, SECOND = NAMES


@pytest.fixture
def allow(hospitals: Hospitals) -> Iterator[Callable[..., None]]:
    """Changes values of the first node's policy, as its data manager does, while the node runs."""

    def allow(*assignments: str) -> None:
        words = [word for assignment in assignments for word in ("--set", assignment)]
        done = CliRunner().invoke(app, ["node", "policy", "edit", NODES[0], *words, "--at", str(hospitals.tries.place)])
        assert done.exit_code == 0, done.output

    yield allow
    write_policy(hospitals.tries.place / NODES[0], OPEN.encode())


class Honest(TorchTrainingPlan):
    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = nn.Linear(13, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x).sigmoid()

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y)


class TakesRowsAlong(Honest):
    """Registers a batch of patients as a part of its model."""

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.register_buffer("image_of_jane_doe", x.clone())
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y)


class PutsRowsInPlace(Honest):
    """Puts a patient in the place of a parameter."""

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = nn.functional.binary_cross_entropy_with_logits(self.model(x), y)
        self.model.bias = nn.Parameter(x[0].clone())
        return loss


def of(plan: type, hospitals: Hospitals, folder: Path, **settings: Any) -> Experiment:
    settings = {"round_limit": 1, "training_args": {"batch_size": 16, "epochs": 1}} | settings
    return Experiment(
        plan, tags=["fed_heart_disease"], folder=folder / "run", federation=hospitals.federation, observers=[],
        seed=4, **settings,
    )  # fmt: skip


def error_of(run: Callable[[], Any]) -> PolyclinicError:
    with pytest.raises(PolyclinicError) as caught:
        run()
    return caught.value


def rounds_used(hospitals: Hospitals) -> int:
    """By ada at the first node so far: other tests have the same hospitals."""
    node = Node.open(hospitals.tries.place / NODES[0])
    (dataset,) = node.registry.datasets()
    return UsageAccount(cast("Engine", node.engine)).used("ada", dataset.dataset_id).rounds


def test_a_rule_is_told_before_and_refuses_and_once_it_is_changed_the_same_experiment_runs(
    hospitals: Hospitals, allow: Callable[..., None], expected: Experiment, tmp_path: Path
) -> None:
    used = rounds_used(hospitals)
    allow("every_dataset.minimum_training_rows=500", f"every_dataset.maximum_rounds={used + 2}")
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks)
    report = found.check()
    assert not report.ok
    rows = {(node, name): detail for node, name, ok, detail in report.rows if not ok}
    assert rows.keys() == {(FIRST, "policy: minimum-training-rows"), (FIRST, "policy: rounds-per-researcher")}
    assert "training rows, at least 500 are needed" in rows[FIRST, "policy: minimum-training-rows"]
    assert (
        f"ada has used {used} of {used + 2} rounds, and asks for 3 more" in rows[FIRST, "policy: rounds-per-researcher"]
    )
    assert hospitals.steps() == 1  # of the other node, which was asked for one

    error = error_of(found.run)
    assert isinstance(error, PolicyRefused | RoundFailed)
    for told in ("minimum-training-rows", "at least 500", "rounds-per-researcher", FIRST):
        assert told in str(error)
    allow("every_dataset.minimum_training_rows=10", f"every_dataset.maximum_rounds={used + 3}")
    found.run()
    assert_same_end(found, expected)

    # The rounds are used up now, and stay so when the node is started again.
    hospitals.tries.kill(NODES[0])
    hospitals.tries.start_again(NODES[0])
    another = experiment(hospitals.federation, tmp_path / "another", hospitals.marks, round_limit=1)
    assert f"ada has used {used + 3} of {used + 3} rounds, and asks for 1 more" in str(error_of(another.run))


def test_a_broken_policy_stops_a_running_node_and_is_mended_without_a_restart(
    hospitals: Hospitals, allow: Callable[..., None], tmp_path: Path
) -> None:
    path = hospitals.tries.place / NODES[0] / POLICY_FILE
    path.write_text(OPEN.replace("minimum_test_rows", "minimum_rows_secret"))
    found = of(Honest, hospitals, tmp_path)
    for ask in (found.run, found.evaluate):
        said = str(error_of(ask))
        assert "policy-file: the node's policy cannot be read, and so the node does nothing" in said
        assert "secret" not in said
    path.write_text(OPEN)
    path.chmod(0o666)
    assert "policy-file" in str(error_of(found.run))
    path.chmod(0o600)
    found.run()
    assert found.round == 1


def test_what_the_policy_keeps_does_not_come(hospitals: Hospitals, allow: Callable[..., None], tmp_path: Path) -> None:
    allow("leaves.losses=false", "every_dataset.minimum_test_rows=1000")
    found = of(Honest, hospitals, tmp_path)
    found.run()
    losses = {row.node: row.value for row in found.history if row.metric == "loss" and row.split == "train"}
    assert math.isnan(losses[FIRST])
    assert math.isfinite(losses[SECOND])
    evaluation = found.evaluate(metrics=["accuracy"])
    assert evaluation.nodes[FIRST] == {}
    assert evaluation.pooled["accuracy"].num_samples == evaluation.nodes[SECOND]["accuracy"].num_samples == 89
    assert "metrics-leave: loss may not leave" in str(error_of(lambda: found.evaluate(metrics=["loss"])))


@pytest.mark.parametrize(
    ("plan", "what"),
    [(TakesRowsAlong, "1 tensors were not asked for"), (PutsRowsInPlace, "'model.bias' has another shape than (1,)")],
    ids=["more", "another"],
)
def test_rows_do_not_leave_as_a_part_of_the_model(hospitals: Hospitals, tmp_path: Path, plan: type, what: str) -> None:
    found = of(plan, hospitals, tmp_path, training_args={"batch_size": 16, "num_updates": 1})
    error = error_of(found.run)
    assert isinstance(error, RoundFailed)
    assert error.codes == {"leaving"}
    assert what in str(error)
    assert "jane" not in str(error)
    assert found.round == 0
