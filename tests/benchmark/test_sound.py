from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from polyclinic.aggregators import AGGREGATORS
from polyclinic.benchmark import clients
from polyclinic.benchmark.cells import Cell, run_cell
from polyclinic.benchmark.clients import Clients
from polyclinic.benchmark.settings import FINE_TUNING, PERSONAL
from polyclinic.benchmark.sound import SoundProtocol, Split, run_sound
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import ConfigError, DatasetError
from polyclinic.federation.in_process import InProcessFederation
from polyclinic.messages.training_args import TrainingArgs

PROTOCOL = SoundProtocol()
CENTERS = ("Ant", "Bee", "Cat")


def cell(method, *, seed=1, num_updates=2, rounds=None, patience=100, points=20, **settings):
    dataset = FederatedDataset.load("toy")
    if method == "Pooled" or method.startswith("Local"):
        own = PROTOCOL.baseline("toy")
    else:
        own = PROTOCOL.strategies("toy")[method]
    configuration = PROTOCOL.configuration(dataset, (), num_updates, rounds)
    configuration |= {"patience": patience, "points": points}
    return Cell("polyclinic", "toy", method, own | settings, seed, configuration)


# ---- the data


def rows(part):
    return {tuple(row) for row in part.tensors[0].tolist()}


def test_validation_rows_are_a_fifth_and_no_training_rows(toy):
    dataset = Clients("toy")
    split = Split(dataset, seed=1)
    assert [len(part) for part in split.validation] == [3, 4, 2]  # of 14, 20, 10
    for number in range(3):
        train, validation = rows(split.train[number]), rows(split.validation[number])
        assert not train & validation
        assert train | validation == rows(dataset.part(number, train=True))
    other = Split(dataset, seed=2)
    assert [rows(part) for part in other.validation] != [rows(part) for part in split.validation]


@pytest.fixture
def seen(toy, monkeypatch):
    """What cells train on and validate with, as they go."""
    found = {"train": [], "validation": []}
    federation, loss = Clients.federation, Clients.loss

    def watched_federation(self, parts, *args):
        found["train"].append({name: rows(train) for name, (train, _) in parts.items()})
        return federation(self, parts, *args)

    def watched_loss(self, plan, data, **named):
        found["validation"].append(rows(data))
        return loss(self, plan, data, **named)

    monkeypatch.setattr(Clients, "federation", watched_federation)
    monkeypatch.setattr(Clients, "loss", watched_loss)
    return found


def test_all_methods_of_a_seed_have_the_same_data(seen):
    for method in ("FedAverage", "Cyclic", "Pooled", "Local Bee"):
        run_sound(cell(method, rounds=1, points=1), test=True)
    fed, cyclic, pooled, local = seen["train"]
    assert list(fed) == list(cyclic) == list(CENTERS)
    assert fed == cyclic
    assert pooled == {"Pooled": fed["Ant"] | fed["Bee"] | fed["Cat"]}
    assert local == {"Bee": fed["Bee"]}
    ant, bee, cat = seen["validation"][:3]
    # One point of each strategy, three of pooled and of local training: epochs; the latter on its own data alone.
    assert seen["validation"] == [ant, bee, cat] * 2 + [ant, bee, cat] + [bee]
    assert not (ant | bee | cat) & pooled["Pooled"]


def test_test_data_are_not_read_where_they_must_not_be(toy):
    toy.unreadable.append(False)
    outcome, best = run_sound(cell("FedAverage"), test=False)
    assert outcome.figures == []
    assert best.figures == ()
    assert math.isfinite(best.loss)
    assert {train for _, train, *_ in toy.built} == {True}
    with pytest.raises(DatasetError, match="nobody may read this"):
        run_sound(cell("FedAverage"), test=True)


def test_looking_at_test_data_changes_nothing(toy):
    assert run_sound(cell("FedAverage"), test=False)[1].loss == run_sound(cell("FedAverage"), test=True)[1].loss


# ---- the steps


@pytest.fixture
def steps(toy, monkeypatch):
    """Counts gradient steps."""

    # A stack of models tries a step out first, and takes its steps by other means.
    monkeypatch.setattr(clients, "StackedFederation", InProcessFederation)
    found, step = [], torch.optim.SGD.step
    monkeypatch.setattr(torch.optim.SGD, "step", lambda *args: found.append(1) or step(*args))
    return found


# Pooled training: 35 rows are 9 batches of 4, in 3 epochs 27 steps.
@pytest.mark.parametrize(
    ("method", "updates", "expected"),
    [
        ("Pooled", None, 27),
        ("FedAverage", 1, 27),
        ("FedAverage", 2, 24),  # 4.5 rounds of 3 · 2 steps
        ("FedAverage", 4, 24),
        ("FedAverage", 50, 150),  # at least one round
        ("Cyclic", 2, 28),  # 13.5 rounds in which one client takes 2 steps
        ("Local Ant", None, 9),  # its own 11 rows in 3 batches, 3 epochs
    ],
)
def test_gradient_steps_are_those_of_pooled_training_within_a_round(steps, method, updates, expected):
    run_sound(cell(method, num_updates=updates), test=False)
    assert len(steps) == expected


def test_rounds_that_were_asked_for(steps):
    run_sound(cell("FedAverage", num_updates=2, rounds=7), test=False)
    assert len(steps) == 7 * 3 * 2


# ---- points


def test_the_result_is_the_point_with_the_lowest_validation_loss(toy, monkeypatch):
    losses, loss = [], Clients.loss

    def watched(self, plan, data, **named):
        losses.append(loss(self, plan, data, **named))
        return losses[-1]

    monkeypatch.setattr(Clients, "loss", watched)
    # Steps this large do not settle, so the last point is seldom the best.
    outcome, best = run_sound(cell("FedAverage", num_updates=1, lr=0.3), test=True)
    points = [losses[k : k + 3] for k in range(0, len(losses), 3)]
    means = [sum(value * count for value, count in point) / sum(count for _, count in point) for point in points]
    assert len(means) == 9
    lowest = min(range(9), key=lambda k: means[k])
    assert 0 < lowest < 8
    assert best.loss == pytest.approx(means[lowest], rel=1e-9)
    final = {f.test: (f.round, f.value) for f in outcome.figures if f.final}
    curve = {f.test: (f.round, f.value) for f in outcome.figures if not f.final and f.round == lowest + 1}
    assert final == curve
    assert set(final) == {*CENTERS, "mean", "pooled"}
    assert outcome.round == 9


@pytest.mark.parametrize(
    ("losses", "patience", "points", "lowest"),
    [
        ([5, 4, 6, 7, 8, 1, 1, 1, 1], 2, 4, 2),
        ([5, 4, 6, 7, 8, 1, 1, 1, 1], 4, 9, 6),
        ([5, 4, 4, 4, 4, 4, 4, 4, 4], 3, 5, 2),
        ([9, 8, 7, 6, 5, 4, 3, 2, 1], 1, 9, 9),
        ([math.nan, math.nan, 3, 4, 5, 6, 7, 8, 9], 3, 6, 3),
        ([5, math.inf, 4, math.nan, 6, 7, 8, 9, 9], 2, 5, 3),
    ],
    ids=["stops", "waits", "equal", "falls", "undefined", "infinite"],
)
def test_a_run_ends_when_points_have_brought_nothing(toy, monkeypatch, losses, patience, points, lowest):
    values = iter(losses)
    at_three = {"n": 0, "value": 0.0}

    def prescribed(self, plan, data, **_):
        at_three["value"] = float(next(values)) if at_three["n"] % 3 == 0 else at_three["value"]
        at_three["n"] += 1
        return at_three["value"], len(data)

    monkeypatch.setattr(Clients, "loss", prescribed)
    outcome, best = run_sound(cell("FedAverage", num_updates=1, patience=patience), test=True)
    assert outcome.round == points
    assert best.loss == losses[lowest - 1]
    assert {f.round for f in outcome.figures if f.final} == {lowest}


def test_rows_of_the_results_file(toy):
    found = run_cell(cell("FedAverage", num_updates=1))
    assert {row.status for row in found} == {"done"}
    ends = {row.test: row for row in found if row.final}
    assert {name: row.num_samples for name, row in ends.items()} == {
        "Ant": 6,
        "Bee": 5,
        "Cat": 4,
        "pooled": 15,
        "mean": 15,
    }
    values = {name: row.value for name, row in ends.items()}
    assert values["mean"] == pytest.approx((values["Ant"] + values["Bee"] + values["Cat"]) / 3)
    # A mean of squares, so the pooled one is their mean over samples.
    pooled = (6 * values["Ant"] + 5 * values["Bee"] + 4 * values["Cat"]) / 15
    assert values["pooled"] == pytest.approx(pooled, rel=1e-6)
    assert run_cell(cell("FedAverage", num_updates=1))[-1].value == found[-1].value


# ---- whose model is judged


@pytest.fixture
def judged(toy, monkeypatch):
    """The models that test data were given to at the last point, in the order of the centers."""
    found, original = [], Clients.rows

    def watched(self, plan, data, **named):
        if len(data) in (6, 5, 4) and data is self.part((6, 5, 4).index(len(data)), train=False):
            found.append({name: tensor.clone() for name, tensor in plan.state_dict().items()})
        return original(self, plan, data, **named)

    monkeypatch.setattr(Clients, "rows", watched)
    return found


def differing(models):
    first, *others = models
    return {name for name in first if any(not torch.equal(first[name], other[name]) for other in others)}


@pytest.mark.parametrize(
    ("method", "own"),
    [
        ("FedAverage", []),
        ("Scaffold", []),
        ("FedBN", ["model.1."]),
        ("FedRep", ["model.3."]),
        ("Ditto", ["model.0.", "model.1.", "model.3."]),
        (FINE_TUNING, ["model.0.", "model.1.", "model.3."]),
    ],
)
def test_a_personal_model_is_judged_on_its_own_center(judged, method, own):
    run_sound(cell(method, rounds=2, points=1), test=True)
    assert len(judged) == 3
    counter = {"model.1.num_batches_tracked"}  # of as many batches everywhere
    layers = {name for name in judged[0] if name.startswith(tuple(own))} if own else set()
    assert differing(judged) - counter == layers - counter
    assert (method in PERSONAL) == bool(own)


@pytest.mark.parametrize("method", [*sorted(AGGREGATORS), FINE_TUNING])
def test_every_strategy_runs(toy, method):
    found = run_cell(cell(method, rounds=2, points=1, fine_tune=2) if method == FINE_TUNING else cell(method, rounds=2))
    assert {row.status for row in found} == {"done"}, found[-1].detail
    assert all(math.isfinite(row.value) for row in found)


@pytest.mark.parametrize("points", [20, 1])
def test_a_model_that_diverges(toy, points):
    with np.errstate(over="ignore"):  # of the metric
        found = run_cell(cell("FedAverage", num_updates=1, lr=0.5, points=points))
    *curve, last = found
    assert {row.status for row in found} == {"diverged"}
    # At first sight: when the model is judged, or else when it is trained.
    assert (last.round, last.detail) in [
        (6, "the model predicts what is no finite number"),
        (7, "round 7: 0 of 3 nodes answered, 3 are needed node 'Ant', 'Bee', 'Cat' failed at stage 'train' "
         "(diverged): the loss of batch 1 is inf"),
    ]  # fmt: skip
    assert last.round == (6 if points == 20 else 7)
    assert len(curve) == (5 * 5 if points == 20 else 0)


def test_fixes_are_for_the_other_protocol(toy):
    with pytest.raises(ConfigError, match=r"--fix is for protocol flamby\n  What to do: leave it out"):
        PROTOCOL.configuration(FederatedDataset.load("toy"), ["tau"], None, None)


def test_the_learning_rate_falls_over_the_rounds(toy, monkeypatch):
    seen = []
    plain = TrainingArgs.learning_rate

    def spied(args, round_index):
        seen.append((round_index, plain(args, round_index)))
        return plain(args, round_index)

    monkeypatch.setattr(TrainingArgs, "learning_rate", spied)
    run_sound(cell("FedAverage", lr=0.01, rounds=4, schedule="cosine"), test=False)
    rates = dict(seen)
    assert rates[1] == 0.01
    assert rates[3] == pytest.approx(0.005)
    assert 0 < rates[4] < 0.005 < rates[2] < 0.01
