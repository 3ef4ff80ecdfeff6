"""Whole runs of every algorithm that there is: resumed, thrown back by a crash, in worker processes, and with
layers that stay at the nodes.

An algorithm that joins `AGGREGATORS` is tested here by itself. One that cannot be made without settings, or that does
something only with others than its defaults, has them in the table below.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from polyclinic import Experiment, Federation, InProcessFederation, Observer, ProcessFederation, TorchTrainingPlan
from polyclinic.aggregators import AGGREGATORS, make_aggregator
from polyclinic.federation.places import create_nodes

SETTINGS: dict[str, dict[str, Any]] = {
    "Cyclic": {"order": "shuffled", "seed": 1},
    "Ditto": {"lam": 0.1},
    "FedDyn": {"alpha": 0.5},
    "FedProx": {"mu": 0.1},
    "FedRep": {"head": ["model.3"]},
    "Krum": {"num_hostile": 0},
    "MultiKrum": {"num_hostile": 0, "num_selected": 2},
    "QFedAvg": {"q": 1, "lipschitz": 20},
    "Scaffold": {"server_lr": 0.7},
    "TrimmedMean": {"fraction": 0.25},
}
NAMES = sorted(AGGREGATORS)
State = dict[str, torch.Tensor]


class Plan(TorchTrainingPlan):
    """With statistics, random masks, and layers that may stay at a node."""

    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = nn.Sequential(nn.Linear(13, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 1))
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.05)

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(self.model(x), y)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("nodes")
    create_nodes(place, "fed_heart_disease")
    return place


@pytest.fixture(scope="module")
def here(place: Path) -> InProcessFederation:
    return InProcessFederation.at(place)


def begin(
    name: str, federation: Federation, folder: Path, *, observer: Observer | None = None, **args: Any
) -> Experiment:
    return Experiment(
        Plan,
        training_args={"batch_size": 16, "num_updates": 3, "optimizer_state": "kept"} | args,
        federation=federation,
        folder=folder,
        aggregator=make_aggregator(name, SETTINGS.get(name, {})),
        round_limit=3,
        observers=[observer] if observer else [],
        seed=8,
    )


def result(experiment: Experiment, *, judged: bool = True) -> tuple[State, list[Any]]:
    """The global model; and each node's figures, which show what it keeps, with what the nodes noted."""
    assert experiment.round == 3
    figures = experiment.evaluate(metrics=["loss"]).to_pandas().value.tolist() if judged else []
    trained = [row.value for record in experiment.records for row in record.rows]
    return dict(experiment.model().state_dict()), [*figures, *trained, [record.notes for record in experiment.records]]


def assert_same(one: tuple[State, list[Any]], other: tuple[State, list[Any]], name: str) -> None:
    assert one[1] == other[1], name
    assert one[0].keys() == other[0].keys()
    for key, tensor in one[0].items():
        assert torch.equal(tensor, other[0][key]), f"{name}: {key} differs"


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_crashes_and_is_resumed_is_an_uninterrupted_one(
    name: str, place: Path, here: InProcessFederation, tmp_path: Path
) -> None:
    whole = begin(name, here, tmp_path / "whole")
    initial = dict(whole.model().state_dict())
    whole.run()
    expected = result(whole)
    assert any(not torch.equal(tensor, initial[key]) for key, tensor in expected[0].items())
    begin(name, here, tmp_path / "run").run(rounds=2)
    # As if it was killed when the nodes were done with round 2, and had kept what they keep, but before it was written.
    (tmp_path / "run" / "rounds" / "000002.json").unlink()
    (tmp_path / "run" / "models" / "000002.safetensors").unlink()
    # Other objects, as in another program.
    resumed = Experiment.load(tmp_path / "run", federation=InProcessFederation.at(place), observers=[])
    assert resumed.round == 1
    resumed.run()
    assert_same(expected, result(resumed), name)


class Spy(Observer):
    """The names of all tensors that nodes sent."""

    def __init__(self) -> None:
        self.sent: set[str] = set()

    def node_replied(self, *, reply: Any, **_: Any) -> None:
        self.sent |= reply.tensors.keys()


@pytest.fixture
def there(place: Path) -> Iterator[ProcessFederation]:
    federation = ProcessFederation(place, 1)
    yield federation
    federation.close()


def test_worker_processes_give_the_same_models_and_layers_that_are_to_stay_are_never_sent(
    here: InProcessFederation, there: ProcessFederation, tmp_path: Path
) -> None:
    own = {"model.3.weight", "model.3.bias", "model.1.running_mean", "model.1.running_var"}
    # One test for all: starting the workers costs more than all the runs.
    for name in NAMES:
        found = {}
        for where, federation in (("here", here), ("there", there)):
            spy, folder = Spy(), tmp_path / f"{name}-{where}"
            local_layers = ["model.3", "model.1.running_*"]
            experiment = begin(name, federation, folder, local_layers=local_layers, observer=spy)
            before = {key: tensor.clone() for key, tensor in experiment.model().state_dict().items()}
            experiment.run()
            found[where] = result(experiment, judged=False)
            changed = {f"model.{k}" for k, tensor in before.items() if not torch.equal(tensor, found[where][0][k])}
            assert spy.sent >= changed > set(), name
            assert not (spy.sent | changed) & own, name
        assert_same(found["here"], found["there"], name)
