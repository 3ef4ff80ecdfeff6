"""What a researcher holds in hand: settings, running on, models, cancel, loading."""

import math
import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from polyclinic import Experiment, FedAverage, FedProx, InProcessFederation, Observer, TorchTrainingPlan
from polyclinic.aggregators import Aggregator
from polyclinic.errors import (
    Cancelled,
    ConfigError,
    DatasetChanged,
    NoMatchingNodes,
    PlanError,
    PolyclinicError,
    RoundFailed,
)
from polyclinic.node.node import Node

# ---- settings


@pytest.mark.parametrize(
    ("settings", "what", "to_do"),
    [
        ({"tags": "trees"}, "tags is a list, got the text 'trees'", "write tags=['trees']"),
        ({"nodes": "ash"}, "nodes is a list, got the text 'ash'", "write nodes=['ash']"),
        ({"tags": [1]}, "tags.0: Input should be a valid string, got 1", ""),
        ({"round_limit": 0}, "round_limit must be a number above 0, got 0", ""),
        ({"round_limit": -3}, "round_limit must be a number above 0, got -3", ""),
        ({"round_limit": "ten"}, "round_limit must be a number above 0, got 'ten'", ""),
        ({"round_limit": 2.5}, "round_limit: Input should be a valid integer", ""),
        ({"min_nodes": 0}, "min_nodes must be a number above 0, got 0", ""),
        ({"deadline_seconds": 0}, "deadline_seconds must be a number above 0, got 0", ""),
        ({"deadline_seconds": math.nan}, "deadline_seconds must be a number above 0, got nan", ""),
        ({"seed": "lucky"}, "seed: Input should be a valid integer", ""),
        ({"aggregator": FedAverage}, "aggregator is no Aggregator: <class", "write aggregator=FedAverage()"),
        ({"model_args": {"f": len}}, "model_args must be JSON values", "use numbers, texts, true/false"),
        ({"model_args": {1: 2}}, "model_args must be JSON values", "dicts with text keys"),
        ({"model_args": {"shape": (1, 2)}}, "model_args must be JSON values", "lists"),
        ({"model_args": {"x": torch.ones(1)}}, "model_args must be JSON values", "numbers"),
        ({"training_args": {"batch_sise": 4}}, "unknown training argument 'batch_sise'", "did you mean 'batch_size'?"),
        ({"training_args": {"epochs": 1}}, "exactly one of epochs and num_updates, got epochs=1 and num_up", "leave"),
        ({"training_args": {"num_updates": None}}, "exactly one of epochs and num_updates, got epochs=None", "give ep"),
        ({"training_args": {"lr": -1.0}}, "training argument 'lr': Input should be greater than 0, got -1.0", ""),
        ({"training_args": {"batch_size": 0}}, "training argument 'batch_size': Input should be greater than", ""),
        (
            {"training_args": {"lr_schedule": {"kind": "steps"}}},
            "training argument 'lr_schedule.kind': Input should be 'step', 'exponential' or 'cosine'",
            "",
        ),
    ],
)
def test_settings_that_do_not_fit(make, tmp_path, settings, what, to_do):
    with pytest.raises(ConfigError) as caught:
        make(**settings)
    assert what in caught.value.what
    assert to_do in caught.value.to_do
    assert list(tmp_path.iterdir()) == []


class NoStep(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.5)


class NoOptimizer(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(3, 1)

    def training_step(self, x, y):
        return self.model(x).mean()


class NoPlan(nn.Module):
    def training_step(self, x, y):
        return x.mean()


class Needs(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(model_args["features"], 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.5)

    def training_step(self, x, y):
        return self.model(x).mean()


@pytest.mark.parametrize(
    ("model_class", "what", "to_do"),
    [
        (NoStep, "NoStep has no training_step", "write training_step(self, x, y) that returns the batch's loss"),
        (NoOptimizer, "NoOptimizer has no optimizer", "set self.optimizer = torch.optim.SGD"),
        (NoPlan, "NoPlan is no training plan", "write class NoPlan(TorchTrainingPlan)"),
        (Needs, "Needs(model_args) failed: KeyError: 'features'", "check model_args against the plan"),
    ],
)
def test_plans_that_cannot_be_built(make, model_class, what, to_do):
    with pytest.raises(PlanError) as caught:
        make(model_class=model_class)
    assert what in caught.value.what
    assert to_do in caught.value.to_do


class Regression(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.01)

    def training_step(self, x, y):
        return F.mse_loss(self.model(x).reshape(-1), y.reshape(-1).float())


class NotScalar(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.5)

    def training_step(self, x, y):
        return F.mse_loss(self.model(x), y, reduction="none")


def test_a_loss_that_is_no_scalar(make, tmp_path):
    experiment = make(model_class=NotScalar)
    with pytest.raises(
        RoundFailed, match=r"NotScalar\.training_step must return the batch's loss as a scalar"
    ) as caught:
        experiment.run()
    assert "node 'ash', 'birch', 'cedar' failed at stage 'train' (plan)" in caught.value.what
    assert "reduce the loss, for example with .mean()" in caught.value.to_do
    assert "Traceback" in caught.value.__notes__[0]
    assert experiment.round == Experiment.load(tmp_path / "run").round == 0


class DependsOnTheData(TorchTrainingPlan):
    """Its model grows with what it is trained on."""

    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, x, y):
        return F.mse_loss(self.model(x), y)

    def training_data(self, dataset):
        if len(dataset) == 9:
            self.model.register_buffer("seen", torch.zeros(9))
        return dataset


def test_a_model_that_differs_from_node_to_node(make):
    with pytest.raises(RoundFailed, match="failed at stage 'aggregate'") as caught:
        make(model_class=DependsOnTheData).run()
    assert "node 'birch'" in caught.value.what
    assert "sent other tensors than the model has: model.seen" in caught.value.what
    assert "the plan must build the same model at every node" in caught.value.to_do


def test_a_hospital_with_missing_values_is_named(make, data):
    data["birch"][0].tensors[0][2, 1] = math.nan
    with pytest.raises(RoundFailed, match="node 'birch' failed") as caught:
        make(training_args={"num_updates": None, "epochs": 1}).run()
    assert "entry 0 of the batch is not finite itself" in caught.value.what
    assert "'ash'" not in caught.value.what
    assert "look for missing values in this node's data; or set min_nodes" in caught.value.to_do


def test_no_node_has_the_tags(make):
    experiment = make(tags=["treas"])
    with pytest.raises(NoMatchingNodes, match="no node has a dataset with the tags 'treas'") as caught:
        experiment.run()
    assert caught.value.to_do == "tags there are: trees"


# ---- running


def test_in_pieces_or_at_once(make, tmp_path, same):
    whole = make(folder=tmp_path / "whole", round_limit=5)
    whole.run()
    pieces = make(round_limit=5)
    pieces.run(rounds=2)
    assert pieces.round == 2
    assert pieces.run_round().round == 3
    pieces.run(rounds=99)
    assert pieces.round == 5
    assert same(pieces.model(), whole.model())
    assert [row.value for row in pieces.history] == [row.value for row in whole.history]
    with pytest.raises(ConfigError, match="all 5 rounds are done"):
        pieces.run_round()
    assert len(pieces.run()) == 15


def test_the_seed_is_the_result(make, tmp_path, same):
    models = []
    for number, seed in enumerate([5, 5, 6]):
        torch.manual_seed(number)
        experiment = make(seed=seed, folder=tmp_path / str(number))
        experiment.run()
        models.append(experiment.model())
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


def test_the_training_seed_is_of_the_training_alone(make, tmp_path, same):
    plain, other = make(), make(folder=tmp_path / "other", training_args={"seed": 1})
    assert same(plain.model(), other.model())
    for experiment in (plain, other):
        experiment.run()
    assert not same(plain.model(), other.model())


def test_two_experiments_with_one_aggregator_do_not_meet(make, tmp_path, same):
    alone = make(aggregator=FedProx(mu=0.5), folder=tmp_path / "alone")
    alone.run()
    shared = FedProx(mu=0.5)
    one = make(aggregator=shared, folder=tmp_path / "one")
    two = make(aggregator=shared, folder=tmp_path / "two", seed=9)
    for _ in range(3):
        one.run(rounds=1)
        two.run(rounds=1)
    assert same(one.model(), alone.model())
    assert not same(two.model(), alone.model())


class Counting(FedAverage):
    """An aggregator of someone's own, that remembers something."""

    def __init__(self):
        super().__init__()
        self.rounds = 0

    @property
    def settings(self):
        return {}

    def finish(self):
        self.rounds += 1
        return super().finish()

    def state_dict(self):
        return {"rounds": torch.tensor(self.rounds)}

    def load_state_dict(self, state):
        self.rounds = int(state["rounds"])


def test_an_aggregator_of_ones_own(make, tmp_path, federation):
    assert issubclass(Counting, Aggregator)
    make(aggregator=Counting()).run(rounds=2)
    with pytest.raises(ConfigError, match="unknown aggregator 'Counting'"):
        Experiment.load(tmp_path / "run", federation=federation)
    own = Counting()
    again = Experiment.load(tmp_path / "run", federation=federation, aggregator=own, observers=[])
    again.run()
    assert again._aggregator.rounds == 3


def test_an_aggregators_memory_is_not_shared(make, tmp_path):
    shared = Counting()
    one = make(aggregator=shared, folder=tmp_path / "one")
    two = make(aggregator=shared, folder=tmp_path / "two")
    one.run()
    two.run(rounds=1)
    assert shared.rounds == 0
    for name, rounds in (("one", 3), ("two", 1)):
        again = Counting()
        Experiment.load(tmp_path / name, aggregator=again)
        assert again.rounds == rounds


def test_a_failed_round_changes_nothing_and_can_be_run_again(make, failing, tmp_path, same):
    whole = make(folder=tmp_path / "whole")
    whole.run()
    experiment = make()
    experiment.run(rounds=1)
    before = experiment.model()
    failing("cedar", 2, traceback="Traceback (most recent call last): the shelf")
    with pytest.raises(RoundFailed, match="round 2: 2 of 3 nodes answered, 3 are needed") as caught:
        experiment.run()
    assert "call the fire brigade; or set min_nodes" in caught.value.to_do
    assert caught.value.__notes__ == ["At node 'cedar':\nTraceback (most recent call last): the shelf"]
    assert experiment.round == 1
    assert same(experiment.model(), before)
    failing("cedar")
    experiment.run()
    assert same(experiment.model(), whole.model())


class DeleteAfterTheFirstRound(Observer):
    def __init__(self, path):
        self.path = path

    def round_ended(self, *, record, **_):
        if record.round == 1:
            self.path.unlink()


def test_a_file_that_is_deleted_between_rounds(make, tmp_path, same):
    table = "a,b,c,ill\n" + "".join(f"{k % 7},{k % 5},{k % 3},{k % 2}.0\n" for k in range(30))
    for name in ("ash", "elm"):
        (tmp_path / f"{name}.csv").write_text(table)
        node = Node.create(tmp_path / "nodes", name)
        node.registry.add("tabular", {"path": tmp_path / f"{name}.csv", "target": "ill"}, tags=["trees"], name="t")
    federation = InProcessFederation.at(tmp_path / "nodes")
    whole = make(model_class=Regression, federation=federation, folder=tmp_path / "whole")
    whole.run()
    gone = tmp_path / "elm.csv"
    experiment = make(
        model_class=Regression, federation=federation, observers=[DeleteAfterTheFirstRound(gone)], round_limit=3
    )
    with pytest.raises(RoundFailed, match="round 2: 1 of 2 nodes answered") as caught:
        experiment.run()
    assert "node 'elm' failed at stage 'train' (dataset-changed): dataset 't' is not as it was" in caught.value.what
    assert f"{gone} is not there any more" in caught.value.what
    assert "put the data back, or register the dataset again at this node" in caught.value.to_do
    with pytest.raises(DatasetChanged, match="elm: A file of the dataset has vanished"):
        experiment.run()  # now it is noticed before the round
    gone.write_text(table)
    experiment.run()
    assert same(experiment.model(), whole.model())


def test_a_quorum_goes_on_and_the_record_tells(make, failing, tmp_path):
    failing("cedar", 2)
    experiment = make(min_nodes=2)
    experiment.run()
    assert [len(record.nodes) for record in experiment.records] == [0, 3, 2, 3]
    (failure,) = experiment.records[2].failures
    assert (failure.node, failure.code, failure.what) == ("cedar", "training", "the disk [/] is on fire")
    assert Experiment.load(tmp_path / "run").records == experiment.records


def test_more_nodes_asked_for_than_there_are(make):
    with pytest.raises(NoMatchingNodes, match="3 nodes have data with the tags 'trees', min_nodes asks for 4"):
        make(min_nodes=4).run()


def test_some_nodes_only(make):
    experiment = make(nodes=["cedar", "ash"])
    experiment.run(rounds=1)
    assert experiment.records[1].nodes == ("ash", "cedar")


def test_an_evaluation_that_fails_in_a_round_leaves_the_round_undone(make, data, tmp_path, same):
    experiment = make(training_args={"test_every": 2})
    experiment.run(rounds=1)
    before = experiment.model()
    good = data["ash"][1].tensors[0][0, 0].clone()
    data["ash"][1].tensors[0][0, 0] = math.nan
    with pytest.raises(PolyclinicError, match="could not be evaluated"):
        experiment.run()
    assert experiment.round == Experiment.load(tmp_path / "run").round == 1
    assert same(experiment.model(), before)
    data["ash"][1].tensors[0][0, 0] = good
    experiment.run()
    assert experiment.round == 3


class CancelFromAnotherThread(Observer):
    def __init__(self, at):
        self.at = at
        self.seen = 0

    def node_replied(self, **_):
        self.seen += 1
        if self.seen == self.at:
            thread = threading.Thread(target=self.experiment.cancel)
            thread.start()
            thread.join()


@pytest.mark.parametrize(("at", "safe"), [(1, 0), (5, 1), (6, 2)])
def test_cancel_from_another_thread(make, tmp_path, same, at, safe):
    whole = make(folder=tmp_path / "whole")
    whole.run()
    cancelling = CancelFromAnotherThread(at)
    experiment = cancelling.experiment = make(observers=[cancelling])
    with pytest.raises(Cancelled, match="on request") as caught:
        experiment.run()
    assert "run() goes on from there" in caught.value.to_do
    assert experiment.round == Experiment.load(tmp_path / "run").round == safe
    experiment.run()
    assert same(experiment.model(), whole.model())


def test_cancelling_what_does_not_run_is_nothing(make):
    experiment = make()
    experiment.cancel()
    experiment.run()
    experiment.cancel()
    assert experiment.round == 3


def test_a_deadline_ends_a_round(make):
    with pytest.raises(RoundFailed, match="deadline passed") as caught:
        make(deadline_seconds=1e-9).run()
    assert "raise deadline_seconds" in caught.value.to_do


# ---- models


def test_the_model_is_an_ordinary_module(make):
    experiment = make()
    experiment.run()
    model = experiment.model()
    assert type(model) is nn.Sequential
    assert not model.training
    with torch.no_grad():
        model[0].weight.zero_()  # the caller's own: the experiment's weights stay
    assert not torch.equal(experiment.model()[0].weight, model[0].weight)


def test_rounds_and_the_best(make, same):
    experiment = make(round_limit=8, training_args={"lr": 40.0}, keep_all_rounds=True)
    experiment.run()
    losses = {record.round: -record.score for record in experiment.records[1:]}
    best = min(losses, key=losses.get)
    assert best != experiment.round  # else nothing is tested
    assert same(experiment.model("best"), experiment.model(best))
    assert same(experiment.model(), experiment.model(8))
    assert not same(experiment.model("best"), experiment.model())
    for which in ("first", "8"):
        with pytest.raises(ConfigError, match=f"there is no model '{which}'"):
            experiment.model(which)


def test_the_best_is_chosen_by_test_figures_where_there_are_any(make, same, federation, tmp_path, data):
    for _, test in data.values():
        test.tensors[1].mul_(-1).add_(1)  # so any test loss is worse than any training loss
    experiment = make(round_limit=8, training_args={"lr": 40.0, "test_every": 3})
    experiment.run()
    tested = {record.round: record.score for record in experiment.records if record.tested}
    assert set(tested) == {3, 6}
    assert max(tested.values()) < min(r.score for r in experiment.records[1:] if not r.tested)
    best = max(tested, key=tested.get)
    assert same(experiment.model("best"), experiment.model(best))
    assert same(Experiment.load(tmp_path / "run", federation=federation).model("best"), experiment.model("best"))


def test_before_the_first_round_there_is_the_initial_model(make, same):
    experiment = make()
    assert same(experiment.model(), experiment.model("best"))
    experiment.run()
    assert same(experiment.model(3), experiment.model())
    assert not same(experiment.model(3), make().model())


# ---- as a thing


def test_info_and_representations(make, tmp_path):
    experiment = make(name="<Trees>", model_args={"a": [1, None]})
    experiment.run(rounds=1)
    info = experiment.info()
    assert (info["name"], info["round"], info["round_limit"]) == ("<Trees>", 1, 3)
    assert info["model_args"] == {"a": [1, None]}
    assert info["run_folder"] == str(tmp_path / "run")
    assert info["versions"]["torch"] == torch.__version__
    assert repr(experiment) == f"<Experiment '<Trees>': round 1 of 3, {tmp_path / 'run'}>"
    assert "&lt;Trees&gt;" in experiment._repr_html_()
    assert "<Trees>" not in experiment._repr_html_()


def test_run_folders_have_names_of_their_own(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    for _ in range(3):
        experiment = make(folder=None, name="My Trees")
        experiment.save()
        folders.append(experiment.run_folder)
    assert len(set(folders)) == 3
    assert all(folder.parent == tmp_path / "runs" and folder.name.startswith("my-trees-") for folder in folders)


def test_under_a_dozen_public_methods():
    methods = [n for n, v in vars(Experiment).items() if not n.startswith("_") and callable(getattr(v, "__func__", v))]
    assert len(methods) < 12
