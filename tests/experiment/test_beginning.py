"""What an experiment begins with: local layers, an initial state, and what its aggregator is told and chooses."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polyclinic import Aggregator, Experiment, FedAverage, FedBN, Federation, TorchTrainingPlan
from polyclinic.errors import ConfigError, RunFolderError
from polyclinic.messages.replies import TrainReply


class Parts(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, x, y):
        return F.binary_cross_entropy_with_logits(self.model(x), y)


class Tied(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.encode, self.decode = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.decode.weight = self.encode.weight
        self.model = nn.Sequential(self.encode, self.decode, nn.Linear(3, 1))
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, x, y):
        return F.binary_cross_entropy_with_logits(self.model(x), y)


# None of the nodes has a last batch of one row, which BatchNorm does not take.
BATCHES = {"batch_size": 5}


class Spy(Federation):
    def __init__(self, inner):
        self.inner, self.sent = inner, set()

    def nodes(self):
        return self.inner.nodes()

    def send(self, requests, deadline=None):
        for reply in self.inner.send(requests, deadline):
            if isinstance(reply, TrainReply):
                self.sent |= reply.tensors.keys()
            yield reply

    def cancel(self, experiment_id):
        self.inner.cancel(experiment_id)


# ---- local layers


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["model.2"], {"model.2.weight", "model.2.bias"}),
        (["model.?.bias"], {"model.0.bias", "model.1.bias", "model.2.bias"}),
        (["*.running_*", "model.0.weight"], {"model.0.weight", "model.1.running_mean", "model.1.running_var"}),
    ],
)
def test_local_layers_by_pattern_are_never_sent(make, federation, patterns, expected):
    spy = Spy(federation)
    experiment = make(model_class=Parts, training_args=BATCHES | {"local_layers": patterns}, federation=spy)
    everything = {f"model.{name}" for name in experiment.model().state_dict()}
    assert set(experiment.info()["local_layers"]) == expected
    experiment.run()
    assert spy.sent == everything - expected


def test_those_of_the_aggregator_come_in_addition(make, federation, tmp_path):
    spy = Spy(federation)
    args = BATCHES | {"local_layers": ["model.2"]}
    experiment = make(model_class=Parts, training_args=args, federation=spy, aggregator=FedBN())
    experiment.run(rounds=1)
    assert spy.sent == {"model.0.weight", "model.0.bias"}
    again = Experiment.load(tmp_path / "run", federation=spy, observers=[])
    again.run()
    assert spy.sent == {"model.0.weight", "model.0.bias"}


def test_a_tensor_that_layers_share_stays_under_all_of_its_names(make, federation):
    spy = Spy(federation)
    make(model_class=Tied, training_args={"local_layers": ["decode"]}, federation=spy).run()
    assert spy.sent == {"model.2.weight", "model.2.bias"}


def test_the_model_keeps_the_local_layers_it_began_with(make):
    experiment = make(model_class=Parts, training_args=BATCHES | {"local_layers": ["model.2"]})
    before = {name: tensor.clone() for name, tensor in experiment.model().state_dict().items()}
    experiment.run()
    after = experiment.model().state_dict()
    assert torch.equal(after["2.weight"], before["2.weight"])
    assert not torch.equal(after["0.weight"], before["0.weight"])


@pytest.mark.parametrize(
    ("patterns", "what", "to_do"),
    [
        (["model.3"], "no layer of the plan fits 'model.3'", "model."),
        (["model.2.wight"], "no layer of the plan fits 'model.2.wight'", "did you mean 'model.2.weight'?"),
        (["*"], "all layers are local: there is nothing to train together", "name fewer local layers"),
        ("model.2", "training argument 'local_layers'", ""),
    ],
)
def test_local_layers_that_do_not_fit(make, tmp_path, patterns, what, to_do):
    with pytest.raises(ConfigError) as caught:
        make(model_class=Parts, training_args={"local_layers": patterns})
    assert what in caught.value.what
    assert to_do in caught.value.to_do
    assert list(tmp_path.iterdir()) == []


class Names(FedAverage):
    def local_layers(self, plan):
        return ["model.2.wight"]


def test_an_aggregator_that_names_what_is_not_there(make):
    with pytest.raises(ConfigError, match=r"the plan has no tensor 'model.2.wight' to stay at the nodes") as caught:
        make(model_class=Parts, aggregator=Names())
    assert caught.value.to_do == "did you mean 'model.2.weight'?"


# ---- the initial state


def test_tensors_to_begin_with_replace_those_that_are_drawn(make):
    drawn = make(model_class=Parts).model().state_dict()
    given = {"model.0.weight": torch.full((3, 3), 0.25), "model.1.running_var": torch.full((3,), 4.0)}
    begun = make(model_class=Parts, initial_state=given).model().state_dict()
    for name, tensor in begun.items():
        assert torch.equal(tensor, given.get(f"model.{name}", drawn[name])), name


def test_it_is_the_model_of_round_0_and_what_is_trained(make, tmp_path, same):
    first = make()
    first.run(rounds=2)
    state = {f"model.{name}": tensor for name, tensor in first.model().state_dict().items()}
    second = make(initial_state=state, folder=tmp_path / "second")
    assert same(second.model(0), first.model())
    state["model.0.weight"].zero_()  # it is a copy
    second.save()
    assert same(second.model(), first.model())
    assert same(Experiment.load(tmp_path / "second").model(0), first.model())


@pytest.mark.parametrize(
    ("given", "what", "to_do"),
    [
        ({"0.weight": torch.ones(3, 3)}, "initial_state has a tensor '0.weight', the plan has not", "model.0.weight"),
        (
            {"model.0.weight": torch.ones(3)},
            "initial_state's tensor 'model.0.weight' has shape (3,), the plan's has (3, 3)",
            "",
        ),
    ],
)
def test_an_initial_state_that_does_not_fit(make, given, what, to_do):
    with pytest.raises(ConfigError) as caught:
        make(model_class=Parts, initial_state=given)
    assert caught.value.what == what
    assert to_do in caught.value.to_do


# ---- the aggregator


class Chooses(FedAverage):
    """Takes the nodes that it is told to."""

    def __init__(self, *rounds):
        super().__init__()
        self.rounds, self.asked = rounds, []

    def choose(self, round_index, node_ids):
        self.asked.append((round_index, tuple(node_ids)))
        return self.rounds[round_index - 1]


def test_only_the_chosen_nodes_train_and_all_are_judged(make):
    aggregator = Chooses(["cedar", "ash"], ["birch"], {"ash", "birch", "cedar"})
    experiment = make(aggregator=aggregator, training_args={"test_every": 1}, min_nodes=2)
    experiment.run()
    assert [record.nodes for record in experiment.records[1:]] == [
        ("ash", "cedar"),
        ("birch",),
        ("ash", "birch", "cedar"),
    ]
    tested = {row.node for row in experiment.records[2].rows if row.split == "test"}
    assert tested == {"ash", "birch", "cedar", "pooled"}


@pytest.mark.parametrize(
    ("chosen", "what"),
    [
        ([], "Chooses.choose() chose none for round 1"),
        (["ash", "oak"], "Chooses.choose() chose oak for round 1"),
    ],
)
def test_nodes_that_cannot_be_chosen(make, chosen, what):
    with pytest.raises(ConfigError) as caught:
        make(aggregator=Chooses(chosen)).run()
    assert caught.value.what == what
    assert caught.value.to_do == "return one or more of the node ids that it is given: ash, birch, cedar"


class Counts(FedAverage):
    """Its state changes with each round, and its models by it."""

    rounds = 0

    def finish(self):
        self.rounds += 1
        return {name: tensor + self.rounds for name, tensor in super().finish().items()}

    def state_dict(self):
        return {"rounds": torch.tensor(self.rounds)}

    def load_state_dict(self, state):
        self.rounds = int(state["rounds"])


def test_a_round_that_could_not_be_written_is_as_if_it_had_not_been(make, tmp_path, same, monkeypatch):
    whole = make(aggregator=Counts(), folder=tmp_path / "whole")
    whole.run()
    experiment = make(aggregator=Counts())
    experiment.run(rounds=1)

    def full(*_):
        raise RunFolderError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(experiment._folder, "write_round", full)
        with pytest.raises(RunFolderError, match="the disk is full"):
            experiment.run()
    experiment.run()
    assert same(experiment.model(), whole.model())
    assert isinstance(experiment._aggregator, Aggregator)
    assert experiment._aggregator.rounds == 3


def test_the_aggregator_is_told_the_buffers_as_it_begins_and_as_it_is_loaded(make, tmp_path):
    buffers = {"model.1.running_mean", "model.1.running_var", "model.1.num_batches_tracked"}
    given = FedAverage()
    experiment = make(model_class=Parts, aggregator=given)
    assert experiment._aggregator.buffers == buffers
    assert given.buffers == frozenset()  # the experiment has a copy
    experiment.save()
    assert Experiment.load(tmp_path / "run")._aggregator.buffers == buffers
