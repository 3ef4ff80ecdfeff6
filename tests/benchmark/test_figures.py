import math
import sys

import pytest
from PIL import Image

from polyclinic.benchmark import figures
from polyclinic.benchmark.over_seeds import FIRST_STRATEGIES, Arm, DatasetResults, read_results
from polyclinic.benchmark.published import PublishedValue


@pytest.fixture
def heart(full):
    return read_results([full]).datasets[1]


@pytest.fixture
def style(full):
    return figures.styles(read_results([full]).datasets)


def value(method, test, mean, sd=math.nan, n=1, variant=""):
    return PublishedValue(
        dataset="fed_heart_disease", variant=variant, method=method, test=test, metric="accuracy", mean=mean, sd=sd, n=n
    )


def arm(method, number=0):
    return Arm(method, method, number, ())


def widths(axis):
    return [round(float(bar.get_width()), 6) for bars in axis.containers for bar in bars]


def texts(axis):
    return [text.get_text() for text in axis.texts]


def line_with(axis, colour):
    return next(line for line in axis.lines if line.get_color() == colour)


def test_bars_are_the_means_on_average_and_pooled(heart, style):
    figure = figures.bars(heart, "accuracy", [], style)
    mean, pooled = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["mean over centers", "pooled test data"]
    assert [label.get_text() for label in mean.get_yticklabels()] == [a.label for a in heart.arms]
    # Pooled, two locals, FedAverage, FedYogi and Zeta & Co; FedProx has none.
    assert widths(pooled) == [0.71, 0.6, 0.5, 0.74, 0.71, 0.78]
    assert widths(mean) == [0.71, 0.6, 0.5, 0.69, 0.66, 0.73]
    assert "0.740 (5)" in texts(pooled)
    assert "none" in texts(pooled)
    assert {"3 of 5 diverged", "5 of 5 failed"} <= set(texts(pooled))
    assert pooled.get_xlim()[0] == 0


def test_bars_have_intervals_and_published_values(heart, style):
    """Published 0.5 with sd 0.02 over 5 seeds: half width 2.776445 · 0.02 / √5 = 0.024833."""
    published = [value("FedAverage", "pooled", 0.5, 0.02, 5), value("FedProx", "pooled", 0.3)]
    axis = figures.bars(heart, "accuracy", published, style).axes[1]
    spans = [tuple(map(float, line.get_xdata())) for line in axis.lines if len(line.get_xdata()) == 2]
    assert any(span == pytest.approx((0.740 - 0.039265, 0.740 + 0.039265), abs=1e-6) for span in spans)
    assert any(span == pytest.approx((0.5 - 0.024833, 0.5 + 0.024833), abs=1e-6) for span in spans)
    diamonds = [float(line.get_xdata()[0]) for line in axis.lines if line.get_marker() == "D"]
    assert diamonds == [0.5, 0.3]
    (key,) = [t for t in axis.figure.legends[0].get_texts() if "published" in t.get_text()]
    assert key.get_text() == "FLamby's published"


def test_variants_of_published_values_have_markers_of_their_own(heart, style):
    published = [value("FedAverage", "pooled", 0.5, variant=variant) for variant in ("", "phikon", "legacy")]
    figure = figures.bars(heart, "accuracy", published, style)
    markers = [line.get_marker() for line in figure.axes[1].lines if line.get_marker() in "Dv^"]
    assert markers == ["D", "v", "^"]
    assert len([text for text in figure.legends[0].get_texts() if "published" in text.get_text()]) == 3


def test_curves_have_a_panel_a_center_and_both_overall_figures(heart, style):
    figure = figures.curves(heart, "accuracy", style, heart.strategies)
    titles = ["Cleveland", "Hungary", "mean over centers", "pooled test data"]
    assert [axis.get_title() for axis in figure.axes] == titles
    hungary = figure.axes[1]
    line = line_with(hungary, style(arm("FedAverage")).colour)
    assert line.get_xdata().tolist() == [1, 2]
    assert line.get_ydata().tolist() == pytest.approx([0.32, 0.64])
    levels = {line.get_color(): line.get_ydata()[0] for line in hungary.lines if line.get_color() not in ("", None)}
    assert levels["#000000"] == pytest.approx(0.71)  # Pooled
    assert levels["#8A8A8A"] == pytest.approx(0.5)  # Local Hungary
    keys = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {"FedAverage", "FedYogi: 3 of 5 diverged", "FedProx: 5 of 5 failed", "Zeta & Co"} < set(keys)


def test_a_method_without_a_finished_run_ends_in_a_cross(cell, write):
    rows = [r.model_copy(update={"final": False}) for r in cell("FedAdam", 1, {"pooled": 0.8}, status="diverged")]
    (dataset,) = read_results([write(rows)]).datasets
    (axis,) = figures.curves(dataset, "accuracy", figures.styles([dataset]), dataset.strategies).axes
    assert [(line.get_marker(), line.get_xdata().tolist()) for line in axis.lines] == [("o", [1, 2]), ("X", [2])]


def test_many_strategies_are_several_pictures_with_the_same_axes(cell, write):
    cells = [cell(f"S{k}", 1, {"pooled": 0.1 * k}, rounds=(1, k + 2)) for k in range(9)]
    (dataset,) = read_results([write(*cells)]).datasets
    groups = figures.in_groups(dataset.strategies)
    assert [[arm.label for arm in group] for group in groups] == [[f"S{k}" for k in range(7)], ["S7", "S8"]]
    style = figures.styles([dataset])
    for draw in (figures.curves, figures.bytes_sent):
        first, second = [draw(dataset, "accuracy", style, group) for group in groups]
        assert first.axes[0].get_xlim() == second.axes[0].get_xlim()
        assert first.axes[0].get_ylim() == second.axes[0].get_ylim()
        assert [line.get_color() for line in second.axes[0].lines].count("#D2D2D2") == 7
        keys = [text.get_text() for text in second.legends[0].get_texts()]
        assert keys[-3:] == ["other strategies", "S7", "S8"]


def test_equal_curves_are_all_seen(cell, write):
    """The narrower lies on the wider, and each has markers of its own."""
    cells = [cell(method, 1, {"pooled": 0.8}, rounds=(1, 2, 3, 4, 5, 6)) for method in FIRST_STRATEGIES[:3]]
    (dataset,) = read_results([write(*cells)]).datasets
    (axis,) = figures.curves(dataset, "accuracy", figures.styles([dataset]), dataset.strategies).axes
    by_layer = sorted(axis.lines, key=lambda line: line.get_zorder())
    widths_upwards = [line.get_linewidth() for line in by_layer]
    assert widths_upwards == sorted(set(widths_upwards), reverse=True)
    assert len({line.get_markevery() for line in axis.lines}) == 3


def test_bytes_are_those_sent_until_then(heart, style):
    axis = figures.bytes_sent(heart, "accuracy", style, heart.strategies).axes[1]
    assert line_with(axis, style(arm("FedAverage")).colour).get_xdata().tolist() == [1000, 2000]
    assert line_with(axis, style(arm("FedYogi")).colour).get_xdata().tolist() == [100_000, 200_000]
    assert axis.get_xscale() == "log"  # they differ by 200 times


def test_bytes_that_are_alike_have_a_linear_axis(cell, write):
    (dataset,) = read_results([write(cell("FedAverage", 1, {"pooled": 0.8}))]).datasets
    (axis,) = figures.bytes_sent(dataset, "accuracy", figures.styles([dataset]), dataset.strategies).axes
    assert axis.get_xscale() == "linear"
    assert axis.get_xlim()[0] == 0


def test_the_heat_map_is_model_on_center(heart):
    figure = figures.heat_map(heart, "accuracy")
    axis = figure.axes[0]
    shown = axis.images[0].get_array()
    assert shown.shape == (7, 4)
    assert shown[3].tolist() == pytest.approx([0.74, 0.64, 0.69, 0.74])
    assert shown.mask[4].all()
    assert texts(axis)[16:20] == ["failed"] * 4
    own = [(patch.get_x(), patch.get_y()) for patch in axis.patches]
    assert own == [pytest.approx((-0.46, 0.56)), pytest.approx((0.54, 1.56))]


def test_a_method_looks_the_same_everywhere(cell, write, style):
    (other,) = read_results([write(cell("Zeta & Co", 1, {"pooled": 0.8}), name="other.csv")]).datasets
    alone = figures.styles([other])
    for method in FIRST_STRATEGIES:
        assert alone(arm(method)) == style(arm(method))
    looks = {(look.colour, str(look.line), look.marker) for look in map(style, map(arm, FIRST_STRATEGIES))}
    assert len({colour for colour, *_ in looks}) == len(FIRST_STRATEGIES)


def test_twenty_strategies_and_two_configurations_can_be_told_apart():
    names = [f"Strategy{k:02d}" for k in range(13)]
    dataset = DatasetResults("fed_x", tuple(map(arm, names)), (), ("accuracy",))
    style = figures.styles([dataset])
    arms = [*map(arm, (*FIRST_STRATEGIES, *names)), arm("FedProx", number=3)]
    looks = [(look.colour, str(look.line)) for look in map(style, arms)]
    assert len(set(looks)) == len(arms)


@pytest.mark.parametrize("values", [{"pooled": 0.5}, {"Cleveland": math.nan}], ids=str)
def test_pictures_of_little_are_pictures(cell, write, values, tmp_path):
    """One test set; a figure that is not defined."""
    (dataset,) = read_results([write(cell("FedAverage", 1, values))]).datasets
    style = figures.styles([dataset])
    drawn = [
        figures.bars(dataset, "accuracy", [], style),
        figures.curves(dataset, "accuracy", style, dataset.strategies),
        figures.bytes_sent(dataset, "accuracy", style, dataset.strategies),
        figures.heat_map(dataset, "accuracy"),
    ]
    for figure in drawn:
        figure.savefig(tmp_path / "picture.png", dpi=30)
        with Image.open(tmp_path / "picture.png") as picture:
            assert picture.width == 216


def test_pyplot_is_not_used(heart, style):
    figures.bars(heart, "accuracy", [], style)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
