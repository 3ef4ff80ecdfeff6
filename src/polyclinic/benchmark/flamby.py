"""Protocol "flamby": the published benchmark as it was run, with what was broken in it.

100 local updates a round by plain SGD, the dataset's number of rounds, data continued over rounds, BatchNorm
statistics kept by each client, and the model of client 0 judged on everybody's test data. Baselines train with the
dataset's own optimizer for its number of epochs. Random numbers are drawn in the old runner's order, so results on
tables are those that were published. `FIXES` mends single points.

Ogier du Terrail et al., FLamby, NeurIPS 2022 (Datasets and Benchmarks), arXiv:2210.04620; flamby/benchmarks of its
repository. The published Cyclic passed no weights on: client 0 trained alone in its own turns.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from polyclinic.aggregators import AGGREGATORS, Aggregator, make_aggregator
from polyclinic.aggregators.cyclic import Cyclic
from polyclinic.benchmark.cells import ALL_DATA, LOCAL, Cell, Measured, Outcome, with_mean
from polyclinic.benchmark.clients import TAG, Clients, Score, clients_of, loader
from polyclinic.benchmark.curves import Curve, curve_rounds, run_to_the_end, scratch_folder, training_seconds
from polyclinic.benchmark.hyperparameters import FLAMBY
from polyclinic.benchmark.plans import SgdPlan
from polyclinic.benchmark.results import POOLED
from polyclinic.benchmark.shared_generator import SharedGenerator
from polyclinic.datasets.baseline_plan import BaselinePlan
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import ConfigError, nearest
from polyclinic.experiment.experiment import Experiment
from polyclinic.messages.replies import TrainReply
from polyclinic.plans.torch_plan import TorchTrainingPlan

NAME = "flamby"
NUM_UPDATES = 100
FIXES = {
    "cyclic": "Cyclic passes the model on from client to client",
    "buffers": "BatchNorm statistics are averaged, and the one global model is judged",
    "rounds": "the number of rounds follows from the true number of training samples",
    "tau": "FedAdam, FedYogi and FedAdagrad use tau = 1e-8 on all datasets",
    "seed": "the initial weights of Fed-LIDC-IDRI follow from the seed",
    "data": "the datasets are the corrected ones",
}
# Test batches hold this many samples where that matters to the evaluation; elsewhere BATCH_SIZE.
_TEST_BATCH = {"fed_lidc_idri": 1, "fed_kits19": 2, "fed_ixi": 1}
_OWN_EVALUATION = {
    "fed_lidc_idri": "evaluate_dice_on_tests_by_chunks",
    "fed_kits19": "evaluate_dice_on_tests",
}
# Importing FLamby's module of this dataset set torch's seed to 42.
_FIXED_SEED = {"fed_lidc_idri": 42}


class CyclicWithoutTransfer(Cyclic):
    """The published Cyclic: every client has a model of its own, and only the first one's is looked at.

    The others' turns cost what they cost, and draw their random numbers, but change nothing that is judged.
    """

    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        super().begin(state)
        self._before = dict(state)
        self._first = False

    def add(self, update: TrainReply) -> None:
        super().add(update)
        self._first = update.node_id == FIRST_CLIENT

    def finish(self) -> dict[str, torch.Tensor]:
        after = super().finish()
        return after if self._first else self._before


FIRST_CLIENT = "client-0000"


class FlambyProtocol:
    """See the module."""

    name: ClassVar[str] = NAME
    summary: ClassVar[str] = (
        "100 local SGD updates a round, FLamby's number of rounds and hyper-parameters (chosen on test data), no "
        "validation, the model of client 0 judged; faults of the original are kept unless mended by --fix"
    )

    def strategies(self, dataset: str, fixes: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
        """The published strategies with their hyper-parameters.

        Raises:
            ConfigError: nothing was published for the dataset.
        """
        if dataset not in FLAMBY:
            raise ConfigError(
                f"FLamby published no hyper-parameters for {dataset}",
                to_do=f"{nearest(dataset, FLAMBY)}; or use --protocol polyclinic",
            )
        return {strategy: _mended(settings, fixes) for strategy, settings in FLAMBY[dataset].items()}

    def baseline(self, dataset: str) -> dict[str, Any]:
        """None: the dataset's own optimizer and learning rate."""
        del dataset
        return {}

    def known_settings(self, strategy: str) -> list[str]:
        """The names of a strategy's hyper-parameters."""
        own = inspect.signature(AGGREGATORS[strategy]).parameters
        return ["lr", *(name for name in own if name not in ("seed", "weights"))]

    def options(self, fixes: Sequence[str]) -> dict[str, Any]:
        """The options of the dataset's class."""
        return {} if "data" in fixes else {"flamby_compatible": True}

    def configuration(
        self, dataset: FederatedDataset, fixes: Sequence[str], num_updates: int | None, rounds: int | None
    ) -> dict[str, Any]:
        """What decides a result besides the method.

        Raises:
            ConfigError: an unknown fix.
        """
        for fix in fixes:
            if fix not in FIXES:
                raise ConfigError(f"there is no fix {fix!r}", to_do=nearest(fix, FIXES))
        updates = num_updates or NUM_UPDATES
        return {
            "num_updates": updates,
            "rounds": max(1, _rounds(dataset, updates, fixes) if rounds is None else rounds),
            "epochs": dataset.num_epochs_pooled,
            "batch_size": dataset.batch_size,
            "fixes": sorted(fixes),
        }

    def run(self, cell: Cell) -> Outcome:
        """Runs one cell.

        Raises:
            Diverged: training became not finite.
            PolyclinicError: it could not be run.
        """
        config, fixes = cell.configuration, cell.configuration["fixes"]
        clients = clients_of(cell.dataset, cell.data_path, json.dumps(self.options(fixes)))
        dataset = clients.dataset
        baseline = cell.method == ALL_DATA or cell.method.startswith(LOCAL)
        seed = cell.seed if "seed" in fixes else _FIXED_SEED.get(cell.dataset, cell.seed)
        streams = SharedGenerator(cell.seed, iterators_made=not baseline)
        federation = clients.federation(_parts(cell, clients), streams)
        last = 1 if baseline else config["rounds"]
        # Where there are none, each round would write a file that says so.
        own_buffers = not baseline and "buffers" not in fixes and clients.has_buffers

        def judge(round_index: int, num_bytes: int) -> list[Measured]:
            first = federation.each_node()[0]
            plan = first.judged(experiment.evaluate_request()).plan
            return _judged(cell, clients, plan, round_index, num_bytes, final=round_index == last)

        curve = Curve(judge, {*curve_rounds(last, 0 if baseline else cell.curve_points), last})
        experiment = Experiment(
            BaselinePlan if baseline else SgdPlan,
            model_args={"dataset": dataset.load_name},
            tags=[TAG],
            training_args={
                "batch_size": config["batch_size"],
                "lr": None if baseline else cell.settings["lr"],
                "buffers": "local" if own_buffers else "averaged",
                **({"epochs": config["epochs"]} if baseline else {"num_updates": config["num_updates"]}),
            },
            round_limit=last,
            aggregator=_aggregator(cell, fixes),
            federation=federation,
            seed=cell.seed,
            initial_state=initial_state(dataset, seed),
            folder=scratch_folder(clients.num_parameters),
            observers=[curve],
        )
        run_to_the_end(experiment, curve)
        return Outcome(
            metric=clients.metric.name,
            figures=curve.figures,
            round=last,
            training_seconds=training_seconds(experiment),
        )


def initial_state(dataset: FederatedDataset, seed: int) -> dict[str, torch.Tensor]:
    """The weights that the old runner began with: the model built right after the seed was set."""
    with SharedGenerator(seed, iterators_made=False).drawing():
        return {f"model.{name}": tensor for name, tensor in dataset.baseline().state_dict().items()}


def _rounds(dataset: FederatedDataset, updates: int, fixes: Sequence[str]) -> int:
    if "rounds" not in fixes or dataset.card is None:
        return dataset.get_nb_max_rounds(updates)
    train = sum(count for count, _ in dataset.card.samples)
    return ((train // dataset.num_clients // dataset.batch_size) * dataset.num_epochs_pooled) // updates


def _parts(cell: Cell, clients: Clients) -> dict[str, Any]:
    if cell.method == ALL_DATA:
        return {ALL_DATA: (clients.pooled(train=True), None)}
    parts = {name: (clients.part(k, train=True), None) for k, name in enumerate(clients.names)}
    if cell.method.startswith(LOCAL):
        name = cell.method.removeprefix(LOCAL)
        return {name: parts[name]}
    return parts


def _mended(settings: dict[str, Any], fixes: Sequence[str]) -> dict[str, Any]:
    return settings | {"tau": 1e-8} if "tau" in fixes and "tau" in settings else settings


def _aggregator(cell: Cell, fixes: Sequence[str]) -> Aggregator | None:
    if cell.method == ALL_DATA or cell.method.startswith(LOCAL):
        return None
    settings = {key: value for key, value in cell.settings.items() if key != "lr"}
    if cell.method == "Cyclic":
        kind = Cyclic if "cyclic" in fixes else CyclicWithoutTransfer
        return kind(order=settings.get("order", "shuffled"), seed=cell.seed)
    return make_aggregator(cell.method, settings)


def _judged(
    cell: Cell, clients: Clients, plan: TorchTrainingPlan, round_index: int, num_bytes: int, *, final: bool
) -> list[Measured]:
    tests = {name: clients.part(k, train=False) for k, name in enumerate(clients.names)}
    tests[POOLED] = clients.pooled(train=False)
    if cell.dataset in _OWN_EVALUATION:
        scores = _by_own_evaluation(cell.dataset, clients, plan, tests)
    else:
        size = _TEST_BATCH.get(cell.dataset)
        scores = {
            name: clients.score([clients.rows(plan, data, seed=cell.seed, batch_size=size)])
            for name, data in tests.items()
        }
    return with_mean(
        [Measured(round_index, name, s.value, s.num_samples, num_bytes, final) for name, s in scores.items()]
    )


def _by_own_evaluation(
    name: str, clients: Clients, plan: TorchTrainingPlan, tests: Mapping[str, Any]
) -> dict[str, Score]:
    evaluate = getattr(clients.dataset.module, _OWN_EVALUATION[name])
    collate = clients.dataset.collate_fn
    found = evaluate(plan.model, [loader(data, _TEST_BATCH[name], collate) for data in tests.values()], use_gpu=False)
    return {test: Score(value, len(data)) for (test, data), value in zip(tests.items(), found.values(), strict=True)}
