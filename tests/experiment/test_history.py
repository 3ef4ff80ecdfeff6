import math

import pytest
from PIL import Image

from polyclinic.experiment.history import COLUMNS, History
from polyclinic.experiment.record import HistoryRow


def row(round, node, value, metric="loss", split="train"):  # noqa: A002
    return HistoryRow(
        round=round, node=node, split=split, metric=metric, value=value, num_samples=7, seconds=0.25, bytes=1024
    )


ROWS = [
    *(row(number, node, value / number) for number in (1, 2, 3) for node, value in (("ash", 1.0), ("birch", 0.5))),
    *(row(3, node, value, "roc_auc", "test") for node, value in (("ash", 0.75), ("birch", math.nan), ("pooled", 0.7))),
]


@pytest.fixture
def history():
    return History(ROWS)


def test_it_is_its_rows_in_order(history):
    assert list(history) == ROWS
    assert len(history) == 9


@pytest.mark.parametrize(("n", "expected"), [(2, ROWS[-2:]), (99, ROWS), (0, []), (-1, [])])
def test_tail(history, n, expected):
    assert list(history.tail(n)) == expected


def test_tail_is_ten_rows():
    assert len(History(ROWS * 3).tail()) == 10


def test_to_pandas(history):
    frame = history.to_pandas()
    assert tuple(frame.columns) == COLUMNS
    assert COLUMNS == ("round", "node", "split", "metric", "value", "num_samples", "seconds", "bytes")
    assert frame.loc[(frame.node == "ash") & (frame.metric == "loss"), "value"].tolist() == [1.0, 0.5, 1.0 / 3]
    assert frame["value"].isna().sum() == 1
    assert tuple(History().to_pandas().columns) == COLUMNS


def test_series(history):
    assert history.series("loss", "train") == {
        "ash": ([1, 2, 3], [1.0, 0.5, 1.0 / 3]),
        "birch": ([1, 2, 3], [0.5, 0.25, 0.5 / 3]),
    }
    assert list(history.series("roc_auc", "test")) == ["ash", "birch", "pooled"]
    assert history.series("loss", "test") == {}


@pytest.mark.parametrize("shown", [ROWS, ROWS[:2], [], [row(1, f"node {k}", 0.5) for k in range(20)]])
def test_plot_writes_a_picture(shown, tmp_path):
    figure = History(shown).plot(tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 300
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 1  # not blank
    panels = {(one.split, one.metric) for one in shown}
    assert len([axis for axis in figure.axes if axis.has_data()]) == len(panels)


def test_plot_draws_what_is_in_the_history(history):
    figure = history.plot()
    assert [axis.get_title() for axis in figure.axes] == ["train loss", "test roc auc"]
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert list(lines) == ["ash", "birch"]
    assert lines["birch"].get_xdata().tolist() == [1, 2, 3]
    assert lines["birch"].get_ydata().tolist() == [0.5, 0.25, 0.5 / 3]
    assert {line.get_label(): line.get_color() for line in figure.axes[1].lines}["pooled"] == "black"


def test_other_pictures(history, tmp_path):
    history.plot(tmp_path / "curves.pdf")
    history.plot(str(tmp_path / "curves.svg"))
    assert (tmp_path / "curves.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (tmp_path / "curves.svg").read_text()


def test_as_text_and_html(history):
    lines = str(history).splitlines()
    assert len(lines) == 3 + 9 + 1
    assert all(name in lines[1] for name in COLUMNS)
    assert "0.3333" in str(history)
    html = history._repr_html_()
    assert html.count("<tr>") == 10
    assert "<caption>" not in html
    strange = History([row(1, "<b>&", 1.0)])._repr_html_()
    assert "&lt;b&gt;&amp;" in strange
    assert "<b>" not in strange


def test_a_long_history_is_cut_in_html_and_says_so():
    html = History(ROWS * 30)._repr_html_()
    assert "the last 200 of 270 rows" in html
    assert html.count("<tr>") == 201
