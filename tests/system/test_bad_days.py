"""Data that vanish between rounds, and two programs that want the same nodes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polyclinic import Experiment, Federation, InProcessFederation, Observer, ProcessFederation, TorchTrainingPlan
from polyclinic.errors import DatasetChanged, NodeInUse, RoundFailed
from polyclinic.node.node import Node


class Plan(TorchTrainingPlan):
    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = nn.Linear(2, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.001)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (self.model(x) - y).square().mean()


class Thief(Observer):
    """Takes a table away after a round."""

    def __init__(self, table: Path, after: int) -> None:
        self.table, self.after = table, after

    def round_ended(self, *, record: Any, **_: Any) -> None:
        if record.round == self.after:
            self.table.rename(self.table.with_suffix(".taken"))


def add_node(folder: Path, name: str) -> Path:
    table = folder / f"{name}.csv"
    table.write_text("a,b,target\n" + "".join(f"{k / 9},{k % 3},{k % 5}.5\n" for k in range(50)))
    node = Node.create(folder / "nodes", name)
    node.registry.add("tabular", {"path": str(table), "target": "target"}, tags=["t"], name="table")
    return table


def experiment(federation: Federation, folder: Path, *observers: Observer, **settings: Any) -> Experiment:
    settings = {"round_limit": 4, "training_args": {"epochs": 1}} | settings
    return Experiment(Plan, tags=["t"], federation=federation, folder=folder / "run", observers=observers, **settings)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_table_that_vanishes_between_rounds(tmp_path: Path, workers: int) -> None:
    add_node(tmp_path, "north")
    table = add_node(tmp_path, "south")
    place = tmp_path / "nodes"
    federation = ProcessFederation(place, workers) if workers else InProcessFederation.at(place)
    run = experiment(federation, tmp_path, Thief(table, after=2))
    with pytest.raises(RoundFailed) as caught:
        run.run()
    message = str(caught.value)
    assert "round 3: 1 of 2 nodes answered" in message
    assert "node 'south' failed" in message
    assert "dataset-changed" in message
    assert str(table) in message
    assert "put the data back" in message
    assert "run() goes on from the last round" in message
    assert run.round == 2

    # It is seen before anything is sent now.
    with pytest.raises(DatasetChanged, match="south"):
        run.run()
    table.with_suffix(".taken").rename(table)
    run.run()
    assert run.round == 4
    federation.close()


def test_a_table_that_vanishes_is_no_end_where_the_others_are_enough(tmp_path: Path) -> None:
    add_node(tmp_path, "north")
    table = add_node(tmp_path, "south")
    run = experiment(InProcessFederation.at(tmp_path / "nodes"), tmp_path, Thief(table, after=2), min_nodes=1)
    run.run()
    assert [[row.node for row in record.failures] for record in run.records] == [[], [], [], ["south"], ["south"]]


HOLDER = """
import sys, time
from pathlib import Path
from polyclinic import InProcessFederation
with InProcessFederation.at(Path(sys.argv[1])).in_use(["south"]):
    print("holding", flush=True)
    sys.stdin.read()
"""


def test_two_programs_on_one_node_folder(tmp_path: Path) -> None:
    add_node(tmp_path, "north")
    add_node(tmp_path, "south")
    place = tmp_path / "nodes"
    run = experiment(InProcessFederation.at(place), tmp_path)
    program = tmp_path / "holder.py"
    program.write_text(HOLDER)
    command = [sys.executable, str(program), str(place)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "holding\n"
        for action in (run.run, run.check, run.evaluate):
            with pytest.raises(NodeInUse) as caught:
                action()
            message = str(caught.value)
            assert f"node 'south' is in use by process {other.pid} (holder.py)" in message
            assert "wait until it is done or stop it" in message
            assert str(place / "south") in message
        other.kill()
    run.run()
    assert run.round == 4
