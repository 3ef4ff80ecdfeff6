"""Nodes trained as one stack give what nodes trained one by one give; what cannot be stacked is trained one by one."""

import logging
import threading
import time
import uuid
from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from polyclinic import (
    Experiment,
    FedAverage,
    FedProx,
    InProcessFederation,
    StackedFederation,
    TorchTrainingPlan,
    simulate,
)
from polyclinic.benchmark.shared_generator import SharedGenerator
from polyclinic.datasets import fed_heart_disease
from polyclinic.errors import ConfigError
from polyclinic.messages.replies import Failure, TrainReply
from polyclinic.messages.requests import PlanText, TrainRequest
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.plans.source import extract_source, load_plan_class
from polyclinic.randomness import seeded

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=0.1, nesterov=True),
    "damped": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.5, dampening=0.3, maximize=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
    "groups": lambda p: torch.optim.SGD([{"params": [q]} for q in p], lr=0.1),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
}


class Plan(TorchTrainingPlan):
    """Small, in float64, so that rounding is far below what is compared."""

    def __init__(self, model_args):
        super().__init__(model_args)
        kind = model_args.get("kind", "")
        norm = {"batchnorm": nn.BatchNorm1d(4), "dropout": nn.Dropout(0.5)}.get(kind, nn.Identity())
        self.model = nn.Sequential(nn.Linear(3, 4), norm, nn.Tanh(), nn.Linear(4, 1))
        self.register_buffer("scale", torch.tensor([2.0]))
        self.register_buffer("seen", torch.zeros(1), persistent=False)
        self.last = torch.zeros(())
        self.frozen = nn.Parameter(torch.tensor([0.5]), requires_grad=False)
        self.unused = nn.Parameter(torch.tensor([7.0]))
        self.count = 0
        self.double()
        self.optimizer = OPTIMIZERS[model_args.get("optimizer", "sgd")](list(self.parameters()))

    def training_step(self, x, y):
        kind = self.model_args.get("kind", "")
        if kind == "branch" and x.mean() > 0:
            x = -x
        if kind == "equal" and torch.equal(x, y):
            x = -x
        if kind == "item":
            x = x * x.mean().item()
        if kind == "counter":
            self.count += 1
        if kind == "buffer":
            self.seen = self.seen + 1
        if kind == "remembers":
            self.last = x.detach().mean()
        if kind == "noise":
            x = x + torch.randn_like(x)
        if kind == "file":
            Path(self.model_args["path"]).touch()
        if kind == "sleep":
            time.sleep(0.01)
        if kind == "fails":
            raise RuntimeError("this plan is broken")
        if kind == "numpy":
            x = x.numpy(force=True)
        prediction = self.model(x) * self.scale + self.frozen
        if kind == "probability":
            return F.binary_cross_entropy(torch.sigmoid(prediction), (y > 0).double())
        return (prediction - y).square().mean()


class Other(Plan):
    def training_data(self, dataset):
        return dataset


def tables(sizes, *, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for rows in sizes:
        x = torch.randn(rows, 3, generator=generator, dtype=dtype)
        made.append(TensorDataset(x, x.sum(1, keepdim=True).sin()))
    return made


def run(federation, folder, *, plan=Plan, aggregator=None, rounds=3, model_args=None, min_nodes=None, **args):
    experiment = Experiment(
        plan,
        federation=federation,
        model_args=model_args or {},
        training_args=args,
        aggregator=aggregator,
        round_limit=rounds,
        min_nodes=min_nodes,
        folder=Path(folder) / uuid.uuid4().hex,
        observers=[],
    )
    experiment.run()
    return experiment


def both_ways(data, folder, **more):
    plain, stacked = simulate(data), simulate(data, stacked=True)
    one, other = run(plain, folder, **more), run(stacked, folder, **more)
    return one, other, stacked.way


def assert_same(one, other, tolerance=1e-10):
    ours, theirs = other.model().state_dict(), one.model().state_dict()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=tolerance, atol=tolerance)
    for a, b in zip(one.history, other.history, strict=True):
        assert (a.node, a.metric, a.num_samples, a.bytes) == (b.node, b.metric, b.num_samples, b.bytes)
        assert a.value == pytest.approx(b.value, rel=tolerance, abs=tolerance)


# ---- the same as one by one


# No shrinking: an example is two whole experiments.
@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(
    sizes=st.lists(st.integers(1, 23), min_size=2, max_size=6),
    batch_size=st.integers(1, 8),
    updates=st.integers(1, 7),
    epochs=st.booleans(),
    optimizer=st.sampled_from(["sgd", "momentum", "damped", "adam", "adamw"]),
    clip_norm=st.sampled_from([None, 0.1]),
    mu=st.sampled_from([0.0, 0.3]),
)
def test_experiments_are_the_same(tmp_path_factory, sizes, batch_size, updates, epochs, optimizer, clip_norm, mu):
    length = {"epochs": min(updates, 3)} if epochs else {"num_updates": updates}
    one, other, way = both_ways(
        tables(sizes),
        tmp_path_factory.mktemp("runs"),
        model_args={"optimizer": optimizer},
        aggregator=FedProx(mu=mu) if mu else FedAverage(),
        batch_size=batch_size,
        clip_norm=clip_norm,
        **length,
    )
    assert way == f"stacked: {len(sizes)} nodes together"
    # Some of these diverge, and what is added up in another order with them.
    assert_same(one, other, tolerance=1e-7)


def test_steps_that_are_recorded_and_groups_of_many_sizes_change_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("polyclinic.node.stacked_step._RECORD_AFTER", 2)
    sizes = [5 + k % 13 for k in range(30)]
    one, other, way = both_ways(tables(sizes), tmp_path, batch_size=4, epochs=2, lr=0.05)
    assert way == "stacked: 30 nodes together"
    assert_same(one, other)


def test_a_schedule_and_drop_last_are_kept(tmp_path):
    schedule = {"kind": "exponential", "factor": 0.5}
    args = {"batch_size": 4, "epochs": 2, "lr": 0.2, "lr_schedule": schedule, "drop_last": True}
    one, other, way = both_ways(tables([9, 14, 4]), tmp_path, **args)
    assert way.startswith("stacked")
    assert_same(one, other)


def test_more_nodes_than_fit_make_several_stacks(tmp_path, monkeypatch):
    monkeypatch.setattr("polyclinic.federation.stacked._VALUES", 410)
    one, other, _ = both_ways(tables([6] * 21), tmp_path, batch_size=4, num_updates=3, rounds=2)
    assert_same(one, other)
    notes = other.records[1].notes
    assert notes == ("node 0: stacked: 10 nodes together", "node 10: stacked: 11 nodes together")


class HeartPlan(TorchTrainingPlan):
    def __init__(self):
        super().__init__()
        self.model = fed_heart_disease.Baseline()
        self.loss = fed_heart_disease.BaselineLoss()
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

    def training_step(self, x, y):
        return self.loss(self.model(x), y)


def test_the_heart_model_in_float32_is_the_same_within_a_millionth(tmp_path):
    centers = [fed_heart_disease.FedClass(center=center, train=True) for center in range(4)]
    one, other, way = both_ways(centers, tmp_path, plan=HeartPlan, batch_size=4, num_updates=40, rounds=4)
    assert way == "stacked: 4 nodes together"
    assert_same(one, other, tolerance=1e-6)


def test_orders_come_from_the_nodes_own_streams(tmp_path):
    """Streams that all nodes share give each node what it gets if they are asked one after the other."""

    def federation(make):
        streams, nodes = SharedGenerator(42, iterators_made=True), simulate(tables([7, 10, 12])).each_node()
        for node in nodes:
            node.streams = streams
        return make(nodes)

    args = {"batch_size": 4, "num_updates": 5, "rounds": 4}
    one, other = (run(federation(make), tmp_path, **args) for make in (InProcessFederation, StackedFederation))
    assert other.records[1].notes == ("node 0: stacked: 3 nodes together",)
    assert_same(one, other)
    derived = run(simulate(tables([7, 10, 12])), tmp_path, **args)
    assert not torch.equal(derived._state["model.0.weight"], one._state["model.0.weight"])


def test_a_node_asked_again_gives_the_same_bits():
    federation = simulate(tables([7, 9, 12]), stacked=True)
    first, second = ({r.node_id: r for r in federation.send(requests_to(federation))} for _ in range(2))
    for node_id, reply in first.items():
        assert all(torch.equal(t, second[node_id].tensors[name]) for name, t in reply.tensors.items())


def test_what_one_experiment_leaves_does_not_reach_the_next(tmp_path):
    data = tables([7, 9])
    federation = simulate(data, stacked=True)
    run(federation, tmp_path, batch_size=4, num_updates=30, lr=0.9)
    again = run(federation, tmp_path, batch_size=4, num_updates=3)
    assert_same(run(simulate(data), tmp_path, batch_size=4, num_updates=3), again)


# ---- random draws


def test_dropout_is_drawn_for_each_node_and_step(tmp_path):
    x = torch.ones(4000, 3, dtype=torch.float64)
    data = [TensorDataset(x, torch.ones(len(x), 1, dtype=torch.float64)) for _ in range(3)]
    args = {"model_args": {"kind": "dropout"}, "batch_size": 4000, "num_updates": 1, "lr": 0.01, "rounds": 1}
    one, other, way = both_ways(data, tmp_path, **args)
    assert way == "stacked: 3 nodes together"
    losses = [row.value for row in other.history]
    assert len(set(losses)) == 3  # the same data and model, but other units were dropped
    # Means over 16,000 draws each: the spread over nodes of the plain path is the yardstick.
    expected = torch.tensor([row.value for row in one.history], dtype=torch.float64)
    assert abs(sum(losses) / 3 - expected.mean()) < 8 * expected.std()


def test_noise_is_drawn_for_each_node(tmp_path):
    x = torch.ones(6, 3, dtype=torch.float64)
    data = [TensorDataset(x, x[:, :1]) for _ in range(3)]
    args = {"model_args": {"kind": "noise"}, "batch_size": 6, "num_updates": 1, "rounds": 1}
    _, other, way = both_ways(data, tmp_path, **args)
    assert way == "stacked: 3 nodes together"
    assert len({row.value for row in other.history}) == 3


def test_dropout_with_a_seed_can_be_repeated(tmp_path):
    args = {"model_args": {"kind": "dropout"}, "batch_size": 4, "num_updates": 5}
    first, second = (run(simulate(tables([6, 8]), stacked=True), tmp_path, **args) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first._state.values(), second._state.values(), strict=True))


# ---- declined


DECLINES = {
    "batchnorm": "changes the buffer 'model.1.running_mean', as BatchNorm does",
    "branch": "branches on its values (data-dependent flow)",
    "equal": "branches on its values (data-dependent flow)",
    "item": "makes a number of a tensor (.item())",
    "counter": "changes attributes of the plan",
    "buffer": "changes the buffer 'seen'",
    "remembers": "changes attributes of the plan",
    "file": "does more than compute",
    "fails": "the plan's step fails: RuntimeError: this plan is broken",
    "numpy": "the plan's step fails",
}


@pytest.mark.parametrize("kind", [kind for kind in DECLINES if kind not in ("fails", "numpy")])
def test_a_step_that_cannot_be_stacked_is_taken_one_by_one(tmp_path, caplog, kind):
    model_args = {"kind": kind, "path": str(tmp_path / "touched")}
    with caplog.at_level(logging.WARNING, "polyclinic.federation"):
        one, other, way = both_ways(tables([6, 9, 11]), tmp_path, batch_size=3, num_updates=4, model_args=model_args)
    assert way.startswith("plain: ")
    assert DECLINES[kind] in way
    assert [record.message for record in caplog.records] == [f"nodes are trained one by one: {way[7:]}"]
    assert other.records[1].notes == (f"node 0: {way}",)
    assert_same(one, other, tolerance=0)


def test_a_trial_does_not_do_what_the_step_does(tmp_path):
    federation = simulate(tables([6, 9]), stacked=True)
    touched = tmp_path / "touched"
    requests = requests_to(federation, kind="file", path=str(touched))
    replies = federation.send(requests)
    federation._next_stack(_group(federation, requests), {}, _stop())
    assert "does more than compute" in federation.way
    assert not touched.exists()
    assert {type(reply) for reply in replies} == {TrainReply}
    assert touched.exists()


@pytest.mark.parametrize(
    ("optimizer", "why"),
    [
        ("adagrad", "the optimizer Adagrad is not supported (SGD, Adam and AdamW are)"),
        ("groups", "groups of parameters"),
        ("amsgrad", "amsgrad"),
    ],
)
def test_an_optimizer_that_is_not_known_is_used_one_by_one(tmp_path, optimizer, why):
    args = {"batch_size": 3, "num_updates": 4, "model_args": {"optimizer": optimizer}}
    one, other, way = both_ways(tables([6, 9]), tmp_path, **args)
    assert why in way
    assert_same(one, other, tolerance=0)


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ({"optimizer_state": "kept"}, "the nodes keep something"),
        ({"local_layers": ("model.0",)}, "the nodes keep something"),
        ({"buffers": "local"}, "the nodes keep something"),
    ],
)
def test_what_nodes_keep_is_kept_one_by_one(tmp_path, args, why):
    one, other, way = both_ways(tables([6, 9]), tmp_path, batch_size=3, num_updates=2, **args)
    assert why in way
    assert_same(one, other, tolerance=0)


def test_own_training_data_are_asked_for_one_by_one(tmp_path):
    _, _, way = both_ways(tables([6, 9]), tmp_path, plan=Other, batch_size=3, num_updates=2, rounds=1)
    assert "training_data" in way


def test_one_node_and_large_models_are_trained_one_by_one(tmp_path, monkeypatch):
    _, _, way = both_ways(tables([6]), tmp_path, batch_size=3, num_updates=2, rounds=1)
    assert way == "plain: 1 of the nodes can be in a stack, which takes two"
    monkeypatch.setattr("polyclinic.federation.stacked._VALUES", 60)
    _, _, way = both_ways(tables([6, 6]), tmp_path, batch_size=3, num_updates=2, rounds=1)
    assert way == "plain: the model is too large: 23 parameters"


class Rows(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.full((3,), float(index), dtype=torch.float64), torch.ones(1, dtype=torch.float64)


def test_a_node_with_other_data_is_trained_beside_the_stack(tmp_path):
    data = [*tables([6, 9]), Rows(), *tables([5], dtype=torch.float64)]
    one, other, way = both_ways(data, tmp_path, batch_size=3, num_updates=4)
    assert way == "stacked: 3 nodes together"
    assert other.records[1].notes == (
        "node 0: stacked: 3 nodes together",
        "node 2: plain: its samples are not the rows of tensors in memory",
    )
    assert_same(one, other)


# ---- what goes wrong at one node


@pytest.mark.parametrize("kind", ["", "probability"])
def test_missing_values_are_the_failure_of_their_node(tmp_path, kind):
    data = tables([6, 9, 12])
    data[1].tensors[0][4, 1] = torch.nan
    one, other, way = both_ways(data, tmp_path, batch_size=3, epochs=1, min_nodes=2, model_args={"kind": kind})
    assert way == "stacked: 2 nodes together"
    assert other.records[1].failures == one.records[1].failures
    assert "is not finite itself" in other.records[1].failures[0].what
    assert_same(one, other)


def test_a_node_that_diverges_fails_as_it_does_alone(tmp_path):
    data = tables([6, 9, 12])
    data[2].tensors[1].mul_(1e200)
    one, other, way = both_ways(data, tmp_path, batch_size=3, num_updates=3, min_nodes=2)
    assert way == "stacked: 2 nodes together"
    assert other.records[1].failures == one.records[1].failures
    assert other.records[1].failures[0].node == "node 2"
    assert_same(one, other)


def test_a_step_that_fails_in_the_middle_is_found_one_by_one(tmp_path):
    class Picky(Plan):
        def training_step(self, x, y):
            return F.binary_cross_entropy(torch.sigmoid(self.model(x)), y)

    data = [TensorDataset(d.tensors[0], torch.ones(len(d), 1, dtype=torch.float64)) for d in tables([6, 9, 12])]
    data[1].tensors[1][8] = 3.0  # not in the trial's batch, which is of the first samples
    one, other, way = both_ways(data, tmp_path, plan=Picky, batch_size=3, epochs=1, min_nodes=2)
    assert "the stack failed with RuntimeError" in way
    assert other.records[1].failures == one.records[1].failures
    assert_same(one, other, tolerance=0)


def test_a_dataset_that_is_not_there_fails_at_its_node_only():
    federation = simulate(tables([6, 9, 12]), stacked=True)
    requests = requests_to(federation)
    requests["node-1"] = requests["node-1"].model_copy(update={"dataset_id": "nothing"})
    found = {reply.node_id: reply for reply in federation.send(requests)}
    assert {n: type(r) for n, r in found.items()} == {"node-0": TrainReply, "node-1": Failure, "node-2": TrainReply}
    assert "has no dataset 'nothing'" in found["node-1"].what
    assert federation.way == "stacked: 2 nodes together"


def test_a_model_that_is_not_the_plans_fails_at_every_node():
    federation = simulate(tables([6, 9]), stacked=True)
    requests = requests_to(federation)
    wrong = {"other": torch.zeros(1)}
    requests = {n: r.model_copy(update={"tensors": wrong}) for n, r in requests.items()}
    assert {reply.code for reply in federation.send(requests)} == {"aggregation"}
    assert "the stack failed with AggregationError" in federation.way


def test_a_plan_that_fails_everywhere_fails_at_every_node():
    federation = simulate(tables([6, 9]), stacked=True)
    found = list(federation.send(requests_to(federation, kind="fails")))
    assert {type(reply) for reply in found} == {Failure}
    assert all("this plan is broken" in reply.what for reply in found)
    assert DECLINES["fails"] in federation.way


# ---- stopping


def test_a_deadline_stops_a_stack_between_steps():
    federation = simulate(tables([6, 9]), stacked=True)
    assert {type(r) for r in federation.send(requests_to(federation, updates=2))} == {TrainReply}
    began = time.monotonic()
    found = list(federation.send(requests_to(federation, updates=20_000), began + 0.5))
    assert {reply.code for reply in found} == {"deadline"}


def test_cancel_stops_a_stack_between_steps():
    federation = simulate(tables([6, 9]), stacked=True)
    requests = requests_to(federation, updates=20_000)
    timer = threading.Timer(0.5, federation.cancel, [requests["node-0"].experiment_id])
    timer.start()
    found = list(federation.send(requests))
    timer.join()
    assert {reply.code for reply in found} == {"cancelled"}


# ---- how it is asked for


def test_how_it_is_asked_for():
    assert type(simulate(tables([6, 9]))) is InProcessFederation
    heart = simulate("fed_heart_disease", stacked=True)
    assert type(heart) is StackedFederation
    same_nodes = StackedFederation.at(heart.each_node()[0].folder.parent)
    assert type(same_nodes) is StackedFederation
    assert same_nodes.nodes() == heart.nodes()
    assert simulate(tables([6, 9]), stacked=True).way == ""
    with pytest.raises(ConfigError, match="trained in this process"):
        simulate("fed_heart_disease", workers=2, stacked=True)


SOURCE = extract_source(Plan)


def requests_to(federation, *, updates=3, **model_args):
    with seeded(0):
        tensors = {n: t.clone() for n, t in load_plan_class(SOURCE)({}).state_dict().items()}
    common = {
        "experiment_id": uuid.uuid4().hex,
        "plan": PlanText(text=SOURCE.text, class_name=SOURCE.class_name),
        "model_args": model_args,
        "training_args": TrainingArgs(batch_size=4, num_updates=updates, lr=0.01),
        "seed": 3,
        "round": 1,
        "dataset_id": "data",
    }
    return {
        node.node_id: TrainRequest(request_id=uuid.uuid4().hex, tensors=tensors, **common)
        for node in federation.nodes()
    }


def _group(federation, requests):
    from polyclinic.federation.stacked import _same_work

    return next(iter(_same_work(requests).values()))


def _stop():
    from polyclinic.node.stop import Stop

    return Stop()
