"""Protocol "polyclinic": federated and pooled training compared on equal terms.

- A fifth of each client's training data, drawn by the seed, is for validation; nothing is chosen on test data.
- All methods train on the same rest. A federated run takes as many gradient steps, summed over its clients, as pooled
  training takes in the dataset's number of epochs.
- BatchNorm statistics are averaged, and the one global model is judged on all test data; a personal model on its own
  center's.
- At up to 20 points of a run the model is judged. The result is that of the point with the lowest validation loss; a
  run ends when ten points have not brought a lower one.
- Hyper-parameters are those that `polyclinic benchmark tune` found on validation data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from polyclinic.aggregators import Aggregator, make_aggregator
from polyclinic.benchmark.cells import ALL_DATA, LOCAL, Cell, Measured, Outcome, with_mean
from polyclinic.benchmark.clients import TAG, Clients, Part, clients_of, joined, rows_of
from polyclinic.benchmark.curves import Curve, curve_rounds, run_to_the_end, scratch_folder, training_seconds
from polyclinic.benchmark.plans import TunedPlan
from polyclinic.benchmark.results import POOLED
from polyclinic.benchmark.settings import (
    FINE_TUNING,
    PERSONAL,
    aggregator_settings,
    baseline,
    known_settings,
    strategies,
)
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import ConfigError
from polyclinic.experiment.experiment import Experiment
from polyclinic.federation.in_process import InProcessFederation
from polyclinic.metrics import Rows
from polyclinic.randomness import derive

NAME = "polyclinic"
VALIDATION = 0.2
POINTS = 20
PATIENCE = 10


@dataclass(frozen=True)
class Judged:
    """A model at one point of a run: mean loss over all validation data, the metric there, and test figures."""

    loss: float
    metric: float
    figures: tuple[Measured, ...]


class SoundProtocol:
    """See the module."""

    name: ClassVar[str] = NAME
    summary: ClassVar[str] = (
        "a fifth of each client's training data for validation, as many gradient steps as pooled training in total, "
        "early stopping and hyper-parameters on validation data, buffers averaged, the global model judged "
        "(personal models each on its own center)"
    )

    def options(self, fixes: Sequence[str]) -> dict[str, Any]:
        """The options of the dataset's class: none."""
        del fixes
        return {}

    def strategies(self, dataset: str, fixes: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """All that fit the dataset's model and number of clients."""
        del fixes
        return strategies(FederatedDataset.load(dataset))

    def baseline(self, dataset: str) -> dict[str, Any]:
        """The hyper-parameters of pooled and local training."""
        return baseline(dataset)

    def known_settings(self, strategy: str) -> list[str]:
        """The names of a strategy's hyper-parameters."""
        return known_settings(strategy)

    def configuration(
        self, dataset: FederatedDataset, fixes: Sequence[str], num_updates: int | None, rounds: int | None
    ) -> dict[str, Any]:
        """What decides a result besides the method.

        Raises:
            ConfigError: a fix; there is nothing to mend here.
        """
        if fixes:
            raise ConfigError("--fix is for protocol flamby", to_do="leave it out, or use --protocol flamby")
        return {
            "validation": VALIDATION,
            "points": POINTS,
            "patience": PATIENCE,
            "epochs": dataset.num_epochs_pooled,
            "batch_size": dataset.batch_size,
            "num_updates": num_updates,
            "rounds": rounds,
        }

    def run(self, cell: Cell) -> Outcome:
        """Runs one cell.

        Raises:
            Diverged: training became not finite.
            PolyclinicError: it could not be run.
        """
        return run_sound(cell, test=True)[0]


def run_sound(cell: Cell, *, test: bool) -> tuple[Outcome, Judged]:
    """Runs one cell; returns what came of it, and its best point.

    Args:
        test: also judge the test data; False for tuning, which must not look at them.
    """
    clients = clients_of(cell.dataset, cell.data_path, json.dumps({}))
    config, settings = cell.configuration, cell.settings
    split = Split(clients, cell.seed)
    federation = clients.federation(_parts(cell, clients, split))
    is_baseline = cell.method == ALL_DATA or cell.method.startswith(LOCAL)
    rounds, how = (config["epochs"], {"epochs": 1}) if is_baseline else _federated_rounds(cell, clients, split)
    points: list[Judged] = []

    def judge(round_index: int, num_bytes: int) -> list[Measured]:
        points.append(_judge(cell, clients, split, experiment, federation, test=test))
        figures = [replace(f, round=round_index, bytes=num_bytes) for f in points[-1].figures]
        points[-1] = replace(points[-1], figures=tuple(figures))
        return figures

    curve = Curve(judge, curve_rounds(rounds, config["points"]), stop=lambda: _no_progress(points, config["patience"]))
    experiment = Experiment(
        TunedPlan,
        model_args={"dataset": clients.dataset.load_name, "optimizer": settings["optimizer"]},
        tags=[TAG],
        training_args={
            "batch_size": config["batch_size"],
            "lr": settings["lr"],
            # A client's steps go on from epoch to epoch in pooled training; federated rounds begin them anew.
            "optimizer_state": "kept" if is_baseline else "fresh",
            "lr_schedule": {"kind": "cosine", "rounds": rounds} if settings["schedule"] == "cosine" else None,
            **how,
        },
        round_limit=rounds,
        aggregator=_aggregator(cell),
        federation=federation,
        seed=cell.seed,
        folder=scratch_folder(clients.num_parameters),
        observers=[curve],
    )
    run_to_the_end(experiment, curve)
    best = min(points, key=lambda point: point.loss)
    outcome = Outcome(
        metric=clients.metric.name,
        figures=[*curve.figures, *(replace(f, final=True) for f in best.figures)],
        round=experiment.records[-1].round,
        training_seconds=training_seconds(experiment),
    )
    return outcome, best


class Split:
    """Each client's training data in two: what is trained on, and what is for validation."""

    def __init__(self, clients: Clients, seed: int) -> None:
        self.train: list[Part] = []
        self.validation: list[Part] = []
        for number in range(len(clients.names)):
            part = clients.part(number, train=True)
            count = len(part)  # type: ignore[arg-type]
            order = np.random.default_rng(derive(seed, "validation", number)).permutation(count)
            held = max(1, round(VALIDATION * count))
            self.validation.append(rows_of(part, sorted(order[:held].tolist())))
            self.train.append(rows_of(part, sorted(order[held:].tolist())))


def _parts(cell: Cell, clients: Clients, split: Split) -> dict[str, tuple[Part, None]]:
    if cell.method == ALL_DATA:
        return {ALL_DATA: (joined(split.train), None)}
    if cell.method.startswith(LOCAL):
        name = cell.method.removeprefix(LOCAL)
        return {name: (split.train[clients.names.index(name)], None)}
    return {name: (part, None) for name, part in zip(clients.names, split.train, strict=True)}


def _federated_rounds(cell: Cell, clients: Clients, split: Split) -> tuple[int, dict[str, int]]:
    """Rounds with the gradient steps of pooled training, all clients' steps counted."""
    config = cell.configuration
    updates = config["num_updates"] or cell.settings["num_updates"]
    samples = len(joined(split.train))  # type: ignore[arg-type]
    steps = config["epochs"] * math.ceil(samples / config["batch_size"])
    in_round = updates * (1 if cell.method == "Cyclic" else len(clients.names))
    return config["rounds"] or max(1, round(steps / in_round)), {"num_updates": updates}


def _aggregator(cell: Cell) -> Aggregator | None:
    if cell.method == ALL_DATA or cell.method.startswith(LOCAL):
        return None
    own = aggregator_settings(cell.method, dict(cell.settings))
    if cell.method == "Cyclic":
        own["seed"] = cell.seed
    return make_aggregator("FedAverage" if cell.method == FINE_TUNING else cell.method, own)


def _no_progress(points: Sequence[Judged], patience: int) -> str | None:
    best = min(range(len(points)), key=lambda k: points[k].loss)
    stopped = len(points) - 1 - best >= patience
    return f"the validation loss has not fallen for {patience} points" if stopped else None


def _judge(
    cell: Cell, clients: Clients, split: Split, experiment: Experiment, federation: InProcessFederation, *, test: bool
) -> Judged:
    names = clients.names
    own = names.index(cell.method.removeprefix(LOCAL)) if cell.method.startswith(LOCAL) else None
    nodes = federation.each_node()
    dataset = nodes[0].registry.datasets()[0].dataset_id
    request = experiment.evaluate_request(fine_tune=int(cell.settings.get("fine_tune", 0)))
    request = request.model_copy(update={"dataset_id": dataset})
    losses: list[tuple[float, int]] = []
    validation: list[Rows] = []
    tests: list[Rows] = []
    for number in range(len(names)):
        if number == 0 or cell.method in PERSONAL:
            plan = nodes[number].judged(request).plan
        if own is None or own == number:
            losses.append(clients.loss(plan, split.validation[number], seed=cell.seed))
            validation.append(clients.rows(plan, split.validation[number], seed=cell.seed))
        if test:
            tests.append(clients.rows(plan, clients.part(number, train=False), seed=cell.seed))
    weight = sum(count for _, count in losses)
    loss = sum(value * count for value, count in losses) / weight
    figures = []
    if test:
        scores = {name: clients.score([rows]) for name, rows in zip(names, tests, strict=True)}
        scores[POOLED] = clients.score(tests)
        figures = with_mean([Measured(0, name, score.value, score.num_samples) for name, score in scores.items()])
    return Judged(loss if math.isfinite(loss) else math.inf, clients.score(validation).value, tuple(figures))
