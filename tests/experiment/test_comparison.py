import base64
import io
import math

import pytest
from pandas import isna
from PIL import Image

from polyclinic import Experiment
from polyclinic.errors import ConfigError, RunFolderError
from polyclinic.experiment.comparison import ComparedRun, Comparison, compare
from polyclinic.experiment.record import HistoryRow, RoundRecord


def record(number, losses=(), score=None, **test):
    """Two nodes with 1 and 3 samples; a round takes 2 seconds, and each row moved 100 bytes."""
    given = {"round": number, "seconds": 1.0, "bytes": 100}
    rows = [
        HistoryRow(node=f"n{k}", split="train", metric="loss", value=v, num_samples=(1, 3)[k], **given)
        for k, v in enumerate(losses)
    ]
    for name, value in test.items():
        for node in ("n0", "n1", "pooled"):
            its = value if node == "pooled" else 0.123
            rows.append(HistoryRow(node=node, split="test", metric=name, value=its, num_samples=4, **given))
    return RoundRecord(
        round=number, started="", seconds=2.0, nodes=(), rows=tuple(rows), score=score, tested=bool(test)
    )


START = RoundRecord(round=0, started="", seconds=0.0, nodes=())
TESTED = ComparedRun(
    "tested",
    "FedAverage",
    (
        START,
        record(1, (1.0, 2.0), score=0.9, accuracy=0.9, roc_auc=0.5),
        record(2, (0.8, 0.4), score=0.6, accuracy=0.6, roc_auc=0.7),
        record(3, (0.4, 0.2), score=-0.25),
    ),
)
UNTESTED = ComparedRun("untested", "FedProx", (START, record(1, (1.0, 1.0), -1.0), record(2, (3.0, 3.0), -3.0)))
NOT_RUN = ComparedRun("not run", "FedAverage", (START,))


def test_the_table_is_what_the_records_say():
    """Losses are means over 1 and 3 samples: (1 · 0.4 + 3 · 0.2) / 4 = 0.25."""
    frame = Comparison([TESTED, UNTESTED, NOT_RUN]).to_pandas()
    assert [*frame.columns] == [
        *("run", "aggregator", "rounds", "loss", "score", "last", "best", "best_round", "seconds", "bytes"),
        *("test accuracy", "test roc_auc"),
    ]
    tested, untested, not_run = frame.to_dict("records")
    assert tested == {
        "run": "tested",
        "aggregator": "FedAverage",
        "rounds": 3,
        "loss": pytest.approx(0.25),
        "score": "test accuracy",
        "last": 0.6,
        "best": 0.9,
        "best_round": 1,
        "seconds": 6.0,
        "bytes": 3 * 200 + 2 * 6 * 100,
        "test accuracy": 0.6,
        "test roc_auc": 0.7,
    }
    assert (untested["score"], untested["last"], untested["best"], untested["best_round"]) == ("train loss", 3, 1, 1)
    assert math.isnan(untested["test accuracy"])
    assert (not_run["rounds"], not_run["bytes"], isna(not_run["score"])) == (0, 0, True)


def test_as_text_and_html():
    strange = ComparedRun('<b>"x"', "FedAverage", TESTED.records)
    text, html = str(Comparison([TESTED, NOT_RUN])), Comparison([strange])._repr_html_()
    for word in ("tested", "not run", "FedAverage", "best_round", "test accuracy", "0.25", "0.9"):
        assert word in text
    assert "nan" not in text
    assert "<b>" not in html
    assert html.count("<table>") == html.count("</table>") == html.count("<img ") == 1
    picture = html.partition("data:image/png;base64,")[2].partition('"')[0]
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        assert image.width == 1560  # three panels: loss, accuracy, roc_auc


def test_curves_lie_over_each_other(tmp_path):
    figure = Comparison([TESTED, UNTESTED]).plot(tmp_path / "curves.png")
    assert [axis.get_title() for axis in figure.axes] == ["train loss", "test accuracy", "test roc auc"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines["untested"].get_xdata().tolist() == [1, 2]
    assert lines["tested"].get_ydata().tolist() == pytest.approx([1.75, 0.5, 0.25])
    assert figure.axes[1].lines[0].get_ydata().tolist() == [0.9, 0.6]
    colours = {line.get_color() for line in figure.axes[0].lines}
    assert len(colours) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["tested", "untested"]
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"


def test_runs_without_a_figure_have_an_empty_picture():
    assert len(Comparison([NOT_RUN]).plot().axes) == 1


def test_a_loss_that_is_not_finite_is_shown():
    broken = ComparedRun("broken", "FedAverage", (START, record(1, (math.nan, 1.0), math.nan)))
    assert "nan" in str(Comparison([broken]))
    assert len(Comparison([broken]).plot().axes) == 1


def test_experiments_and_their_folders(make, tmp_path):
    one = make(name="one", training_args={"test_every": 1})
    one.run()
    other = make(name="other", folder=tmp_path / "other", training_args={"test_every": 2})
    other.run(rounds=2)
    compared = Experiment.compare(one, tmp_path / "other", str(tmp_path / "run"), labels=["a", "b", "c"])
    first, second, third = compared.to_pandas().to_dict("records")
    assert len(compared) == 3
    assert (first["run"], first["aggregator"], first["rounds"], second["rounds"]) == ("a", "FedAverage", 3, 2)
    assert {k: v for k, v in third.items() if k != "run"} == {k: v for k, v in first.items() if k != "run"}
    history = one.history.to_pandas()
    pooled = history[(history.node == "pooled") & (history.metric == "loss")].value.tolist()
    assert (first["score"], first["last"], first["best"]) == ("test loss", pooled[-1], min(pooled))
    assert first["best_round"] == pooled.index(min(pooled)) + 1
    assert first["bytes"] == history.bytes.sum()
    assert first["seconds"] == pytest.approx(sum(r.seconds for r in one.records))


def test_names_that_are_the_same_are_numbered(make, tmp_path):
    runs = [make(name=name, folder=tmp_path / str(k)) for k, name in enumerate("aab")]
    assert [run.label for run in Experiment.compare(*runs).runs] == ["a 1", "a 2", "b"]


def test_nothing_to_compare():
    with pytest.raises(ConfigError, match="there is nothing to compare"):
        Experiment.compare()


@pytest.mark.parametrize(
    ("given", "what"),
    [(3, "a int"), ([], "a list"), (None, "a NoneType"), (Experiment, "the class Experiment")],
    ids=str,
)
def test_what_is_no_experiment(given, what):
    with pytest.raises(ConfigError, match=f"{what} is no experiment") as caught:
        compare([given])
    assert "each as an argument of its own" in caught.value.to_do


def test_a_folder_without_an_experiment(tmp_path):
    with pytest.raises(RunFolderError, match="there is no experiment in"):
        Experiment.compare(tmp_path)


@pytest.mark.parametrize("labels", ["ab", ["a"], ["a", "a"], ["a", "b", "c"]], ids=str)
def test_labels_that_do_not_fit(make, tmp_path, labels):
    runs = [make(), make(folder=tmp_path / "other")]
    with pytest.raises(ConfigError, match="labels must be 2 different words"):
        Experiment.compare(*runs, labels=labels)
