"""Who is told what, in which order; and each observer that comes with Polyclinic."""

import inspect
import sys
import threading

import pytest
import torch
from safetensors.torch import load_file

import polyclinic
from polyclinic import Checkpoint, EarlyStopping, Experiment, Observer, ProgressBar, TensorBoard
from polyclinic.errors import Cancelled, ConfigError, RoundFailed
from polyclinic.experiment.history import History
from polyclinic.experiment.record import HistoryRow, RoundRecord
from polyclinic.messages.replies import Failure, TrainReply

HOOKS = ["run_started", "approval_awaited", "round_started", "node_state", "node_replied", "round_ended", "run_ended"]
PUBLIC = [getattr(polyclinic, name) for name in polyclinic.__all__]
OURS = [cls for cls in PUBLIC if isinstance(cls, type) and issubclass(cls, Observer)]


class Listening(Observer):
    """Remembers all it is told."""

    def __init__(self):
        self.told = []

    def __getattribute__(self, name):
        if name in HOOKS:
            # What nodes are at may be told at any time, and need not: it depends on how quick they are.
            return lambda **facts: None if name == "node_state" else self.told.append((name, facts))
        return super().__getattribute__(name)

    def hooks(self):
        return [name for name, _ in self.told]

    def facts(self, name):
        return [facts for told, facts in self.told if told == name]


# ---- the hooks


def test_the_hooks_are_all_there_are():
    own = [name for name, value in vars(Observer).items() if callable(value) and not name.startswith("_")]
    assert own == HOOKS


def test_all_observers_are_walked():
    assert {Observer, ProgressBar, EarlyStopping, Checkpoint, TensorBoard} <= set(OURS)
    own = {cls for cls in Observer.__subclasses__() if cls.__module__.startswith("polyclinic.experiment.")}
    assert own < set(OURS)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("cls", OURS)
def test_every_hook_takes_the_facts_of_the_contract_and_any_others(cls, hook):
    parameters = inspect.signature(getattr(cls, hook)).parameters
    assert parameters["_"].kind is inspect.Parameter.VAR_KEYWORD
    contract = set(inspect.signature(getattr(Observer, hook)).parameters)
    assert set(parameters) <= contract
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for name, p in parameters.items() if name not in ("self", "_"))


def test_hooks_are_called_in_order_with_the_facts(make, tmp_path):
    listening = Listening()
    experiment = make(observers=[listening], round_limit=3)
    experiment.run(rounds=2)
    one_round = ["round_started", *["node_replied"] * 3, "round_ended"]
    assert listening.hooks() == ["run_started", *one_round, *one_round, "run_ended"]
    (started,) = listening.facts("run_started")
    assert started == {"name": "experiment", "first_round": 1, "last_round": 2, "run_folder": tmp_path / "run"}
    assert listening.facts("round_started") == [
        {"round": number, "nodes": ["ash", "birch", "cedar"]} for number in (1, 2)
    ]
    replied = listening.facts("node_replied")
    assert [facts["node"] for facts in replied] == ["ash", "birch", "cedar"] * 2
    assert all(isinstance(facts["reply"], TrainReply) for facts in replied)
    ended = listening.facts("round_ended")
    assert [facts["record"] for facts in ended] == experiment.records[1:]
    assert [len(facts["history"]) for facts in ended] == [3, 6]
    assert torch.equal(ended[1]["model"]["model.0.weight"], experiment.model().state_dict()["0.weight"])
    assert listening.facts("run_ended") == [{"reason": "2 of 3 rounds"}]
    experiment.run()
    assert listening.facts("run_started")[1]["first_round"] == 3
    assert listening.facts("run_ended")[1] == {"reason": "done"}
    before = len(listening.told)
    experiment.run()  # nothing is left to do
    assert len(listening.told) == before


def test_a_round_is_on_disk_when_it_is_told(make, tmp_path):
    class Looking(Observer):
        def round_ended(self, *, record, **_):
            assert Experiment.load(tmp_path / "run").round == record.round
            self.seen = record.round

    looking = Looking()
    make(observers=[looking]).run()
    assert looking.seen == 3


def test_a_sentence_ends_the_run(make):
    class Enough(Observer):
        def round_ended(self, *, record, **_):
            return "enough is enough" if record.round == 2 else None

    listening = Listening()
    experiment = make(observers=[Enough(), listening])
    experiment.run()
    assert experiment.round == 2
    assert listening.facts("run_ended") == [{"reason": "enough is enough"}]
    experiment.run()
    assert experiment.round == 3


def test_the_end_is_told_whatever_the_reason(make, failing):
    failing("birch", 2)
    listening = Listening()
    experiment = make(observers=[listening])
    with pytest.raises(RoundFailed):
        experiment.run()
    assert listening.hooks()[-1] == "run_ended"
    assert isinstance(listening.facts("node_replied")[4]["reply"], Failure)
    assert listening.facts("run_ended") == [{"reason": "ended by an error"}]
    failing("birch", 2, code="cancelled")
    with pytest.raises(Cancelled):
        experiment.run()
    assert listening.facts("run_ended")[1] == {"reason": "stopped; round 1 is safe, run() goes on"}


# ---- the progress bar


def test_the_progress_bar_writes_to_standard_error(make, capsys):
    make(observers=None, name="beech [/bold]").run()
    out, err = capsys.readouterr()
    assert out == ""
    assert "beech [/bold]" in err
    assert "3/3" in err
    assert "done" in err


def test_the_progress_bar_survives_failures_and_shows_them_as_they_are(make, failing, capsys):
    failing("birch", 1, 2)
    threads = set(threading.enumerate())
    bar = ProgressBar()
    make(observers=[bar], min_nodes=2).run()
    err = capsys.readouterr().err
    assert "round 1: birch failed: the disk [/] is on fire" in err
    assert "round 2: birch failed" in err
    with pytest.raises(RoundFailed):
        make(observers=[bar], folder="elsewhere").run()
    assert "ended by an error" in capsys.readouterr().err
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=5)  # rich tells its thread to end, and does not wait for it
    assert set(threading.enumerate()) <= threads  # none is left drawing


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ---- early stopping


def row(number, node, value, metric="loss", split="train"):
    return HistoryRow(
        round=number, node=node, split=split, metric=metric, value=value, num_samples=1, seconds=0, bytes=0
    )


def stops_at(values, observer, **of_row):
    """After which value the run is stopped; None: never."""
    for number in range(1, len(values) + 1):
        rows = [row(k + 1, "ash", value, **of_row) for k, value in enumerate(values[:number])]
        if observer.round_ended(history=History(rows), record=None, model={}):
            return number
    return None


@pytest.mark.parametrize(
    ("values", "settings", "expected"),
    [
        ([5, 4, 3, 2, 1], {"patience": 1}, None),
        ([5, 4, 4, 4], {"patience": 2}, 4),
        ([5, 4, 4.5, 3, 3.5, 3.2, 3.1, 2], {"patience": 3}, 7),
        ([5, 4.95, 4.9, 4.85], {"patience": 2, "min_delta": 0.2}, 3),
        ([1, 2, 3], {"patience": 2, "higher_is_better": True}, None),
        ([3, 2, 1], {"patience": 2, "higher_is_better": True}, 3),
        ([float("nan")] * 3, {"patience": 2}, 2),
    ],
)
def test_early_stopping_counts_rounds_without_progress(values, settings, expected):
    assert stops_at(values, EarlyStopping(**settings)) == expected


def test_early_stopping_knows_which_way_is_up():
    stopping = EarlyStopping("roc_auc", "test", patience=2)
    assert stops_at([0.5, 0.6, 0.7, 0.8], stopping, metric="roc_auc", split="test") is None
    assert stops_at([0.8, 0.7, 0.6], stopping, metric="roc_auc", split="test") == 3
    assert stops_at([3, 2, 1], EarlyStopping("mse", "test", patience=2), metric="mse", split="test") is None
    stopping = EarlyStopping("integrated_brier@1825", "test", patience=2)
    assert stops_at([3, 2, 1], stopping, metric="integrated_brier@1825", split="test") is None


def test_early_stopping_takes_the_pooled_figure_where_there_is_one():
    rows = [row(k, node, value) for k in (1, 2, 3) for node, value in (("ash", -k), ("pooled", k))]
    assert EarlyStopping(patience=2).round_ended(history=History(rows), record=None, model={}) == (
        "stopped early: train loss has not got better for 2 rounds"
    )


def test_early_stopping_else_takes_the_nodes_mean():
    rows = [row(k, node, value) for k in (1, 2, 3) for node, value in (("ash", -k), ("birch", 2 * k))]
    assert EarlyStopping(patience=2).round_ended(history=History(rows), record=None, model={})
    assert not EarlyStopping(patience=2).round_ended(history=History(rows[::2]), record=None, model={})


@pytest.mark.parametrize("patience", [0, -1])
def test_a_patience_that_makes_no_sense(patience):
    with pytest.raises(ConfigError, match="patience must be at least 1"):
        EarlyStopping(patience=patience)


def test_a_resumed_run_stops_where_an_uninterrupted_one_does(make, federation, tmp_path, same):
    def stopping():
        return [EarlyStopping(patience=2, min_delta=0.5)]

    whole = make(observers=stopping(), round_limit=20, folder=tmp_path / "whole")
    whole.run()
    assert 2 < whole.round < 20
    make(observers=stopping(), round_limit=20).run(rounds=2)
    again = Experiment.load(tmp_path / "run", federation=federation, observers=stopping())
    again.run()
    assert again.round == whole.round
    assert same(again.model(), whole.model())


# ---- checkpoints and TensorBoard


def test_checkpoints_are_safetensors_files(make, tmp_path):
    experiment = make(observers=[Checkpoint(every=2)], round_limit=5, keep_all_rounds=True)
    experiment.run()
    folder = tmp_path / "run" / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["round-000002.safetensors", "round-000004.safetensors"]
    for number in (2, 4):
        loaded = load_file(folder / f"round-{number:06d}.safetensors")
        expected = experiment.model(number).state_dict()
        assert loaded.keys() == {f"model.{name}" for name in expected}
        assert all(torch.equal(loaded[f"model.{name}"], tensor) for name, tensor in expected.items())
    assert Experiment.load(tmp_path / "run").round == 5  # they do not disturb


def test_checkpoints_elsewhere(make, tmp_path):
    make(observers=[Checkpoint(tmp_path / "a" / "b", every=3)]).run()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["round-000003.safetensors"]
    with pytest.raises(ConfigError, match="every must be at least 1"):
        Checkpoint(every=0)


def test_tensorboard_reads_what_is_written(make, tmp_path):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    experiment = make(observers=[TensorBoard()], training_args={"test_every": 3})
    experiment.run()
    events = reading.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {f"train/loss/{node}" for node in ("ash", "birch", "cedar")} | {
        f"test/loss/{node}" for node in ("ash", "birch", "cedar", "pooled")
    }
    expected = experiment.history.series("loss", "train")["birch"]
    scalars = events.Scalars("train/loss/birch")
    assert [scalar.step for scalar in scalars] == expected[0]
    assert [scalar.value for scalar in scalars] == pytest.approx(expected[1], rel=1e-6)


def test_without_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match="TensorBoard is not installed") as caught:
        TensorBoard()
    assert "polyclinic[tracking]" in caught.value.to_do


def test_observers_that_were_never_started_can_end():
    for observer in (ProgressBar(), EarlyStopping(), Checkpoint()):
        observer.run_ended(reason="none")
    assert RoundRecord(round=0, started="", seconds=0, nodes=()).score is None
