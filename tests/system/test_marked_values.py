"""Values of patients stay in the data: in whatever way a plan fails with them, they stand in no journal, log, database,
stored reply or message, and in no error that a researcher sees; only in the file that is there for it."""

from __future__ import annotations

import logging
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

from polyclinic import Experiment, TorchTrainingPlan
from polyclinic.errors import PolyclinicError
from polyclinic.federation.over_nats.researcher import NatsFederation
from polyclinic.federation.try_out import TryOut
from polyclinic.node.database_registry import DatabaseRegistry
from polyclinic.node.failures_file import FILE
from polyclinic.node.journal_check import read
from polyclinic.node.node import Node

NODE = "marked"
# Stands in every row of the data, as an age and as the beginning of a name.
MARK = "7351735"


class Leaks(TorchTrainingPlan):
    """Brings the age of the first patient to where it does not belong, in the way that its arguments name."""

    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = nn.Linear(1, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=1e-12)

    def training_data(self, dataset: Any) -> Any:
        if self.model_args["how"] == "training_data":
            raise LookupError(f"no such patient: {dataset[0]}")
        return dataset

    def predict(self, x: torch.Tensor) -> torch.Tensor:
        if self.model_args["how"] == "predict":
            raise ValueError(f"{x.tolist()} is too old")
        return torch.full((len(x), 1), 0.5)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        how, age = self.model_args["how"], int(x[0, 0])
        if how == "raise":
            raise ValueError(f"patient {age} is too old")
        if how == "raise without words":
            raise KeyError(age)
        if how == "type":
            raise type(f"Patient{age}", (RuntimeError,), {})("it failed")
        if how == "cause":
            raise RuntimeError("it failed") from ValueError(str(age))
        if how == "loss":
            return type(f"Patient{age}", (), {})()  # type: ignore[no-any-return]
        if how == "exit":
            sys.exit(f"patient {age}")
        if how == "print":
            print(age)
            print(age, file=sys.stderr)
            warnings.warn(str(age), stacklevel=1)
            logging.getLogger("polyclinic.node").error("patient %s", age)
            raise RuntimeError("it failed")
        if how == "tensor":
            self.register_buffer(f"patient_{age}", torch.zeros(1))
        if how == "not finite":
            return self.model(x).sum() * float("inf")
        return self.model(x).mean()


TRAINING = (
    "raise", "raise without words", "type", "cause", "loss", "exit", "print", "tensor", "not finite", "training_data",
)  # fmt: skip


@pytest.fixture
def hospital(tmp_path: Path) -> Iterator[TryOut]:
    """A hub, and a node with a table each row of which is marked."""
    table = tmp_path / "patients.csv"
    rows = [f"{MARK},{number % 2}" for number in range(40)]
    table.write_text("\n".join(["age,ill", *rows]) + "\n")
    with TryOut(tmp_path / "federation", policy='approval = "off"\nsandbox = "limits-only"\n') as found:
        node = Node.create(found.place, NODE)
        cast("DatabaseRegistry", node.registry).add(
            "tabular", {"path": str(table), "target": "ill"}, tags=["marked"], name="patients"
        )
        found.start_hub()
        yield found


def leaking(federation: NatsFederation, folder: Path, how: str) -> Experiment:
    return Experiment(
        Leaks, model_args={"how": how}, tags=["marked"], folder=folder / how.replace(" ", "-"), observers=[], seed=1,
        federation=federation, training_args={"batch_size": 16, "num_updates": 1}, round_limit=1,
    )  # fmt: skip


def told(run: Any) -> str:
    """All that a researcher reads of an error."""
    with pytest.raises(PolyclinicError) as caught:
        run()
    error = caught.value
    return f"{error} {error!r} {error.what} {error.to_do} {getattr(error, '__notes__', '')} {vars(error)}"


def files_with(folder: Path) -> list[str]:
    """The files that the mark stands in."""
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return [str(path.relative_to(folder)) for path in files if MARK.encode() in path.read_bytes()]


def test_no_value_of_a_patient_stands_anywhere(hospital: TryOut, tmp_path: Path) -> None:
    identity = hospital.join_researcher("ada")
    hospital.join_node(NODE, [identity])
    hospital.start_node(NODE)
    with closing(NatsFederation(identity)) as federation:
        runs = tmp_path / "runs"
        said = {how: told(leaking(federation, runs, how).run) for how in TRAINING}
        said["predict"] = told(lambda: leaking(federation, runs, "predict").evaluate(metrics=["accuracy"]))
        report = leaking(federation, runs / "check", "raise").check()
        said["check"] = str(report)
        assert not report.ok
    hospital.kill(NODE, signal.SIGTERM)
    assert {how: text for how, text in said.items() if MARK in text} == {}
    assert sorted(files_with(tmp_path)) == [f"federation/nodes/{NODE}/{FILE}", "patients.csv"]
    # What was looked through is where such a thing would stand.
    log = (hospital.folder / f"{NODE}.log").read_text()
    assert log.count("failed at stage") >= len(TRAINING)
    kinds = [row.kind for row in read(cast("Any", Node.open(hospital.place / NODE).engine))]
    assert kinds.count("ended") == len(said)
