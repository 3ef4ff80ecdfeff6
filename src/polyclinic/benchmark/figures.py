"""The pictures of a benchmark report. Each is a matplotlib figure of its own; pyplot's global state is not used.

All take a dataset that has at least one figure on a test set.

A method has the same colour, line and marker in all of them. With more than seven strategies, lines and markers tell
those of one colour apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from polyclinic.benchmark.over_seeds import (
    FIRST_STRATEGIES,
    LOCAL,
    POOLED_MODEL,
    Arm,
    DatasetResults,
    OverSeeds,
    mean_interval,
)
from polyclinic.benchmark.published import PublishedValue
from polyclinic.benchmark.results import MEAN, POOLED
from polyclinic.experiment.line_styles import COLOURS, LINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.2  # inches: the text width of an A4 page
_MARKERS = ("o", "s", "^", "D")
_WIDTHS = (2.5, 1.6, 0.9)
_GREY = "#D2D2D2"
_VARIANTS = {
    "": ("D", "FLamby's published"),
    "phikon": ("v", "published, Phikon"),
    "legacy": ("^", "published, legacy"),
}
_TITLES = {MEAN: "mean over centers", POOLED: "pooled test data"}
_SMALL, _TINY = 7.5, 6.5


@dataclass(frozen=True)
class Style:
    """How a method looks."""

    colour: str
    line: Any
    marker: str
    width: float


def styles(datasets: Iterable[DatasetResults]) -> Callable[[Arm], Style]:
    """The look of every method of a report: FLamby's strategies always have the same, others follow by name."""
    others = {arm.method for dataset in datasets for arm in dataset.strategies} - set(FIRST_STRATEGIES)
    places = {method: place for place, method in enumerate([*FIRST_STRATEGIES, *sorted(others)])}

    def style(arm: Arm) -> Style:
        if not arm.is_strategy:
            return Style("#000000" if arm.method == POOLED_MODEL else "#8A8A8A", "-", "o", 1.0)
        turn, colour = divmod(places[arm.method], len(COLOURS))
        turn = (turn + arm.number) % len(LINES)
        return Style(COLOURS[colour], LINES[turn], _MARKERS[turn], _WIDTHS[places[arm.method] % len(_WIDTHS)])

    return style


def metric_name(metric: str, first: bool = False) -> str:
    """As a reader would write it; ``first``: at the beginning of a sentence."""
    name = {"roc_auc": "ROC AUC"}.get(metric, metric.replace("_", " ")) or "figure"
    return name[0].upper() + name[1:] if first else name


def title_of(test: str) -> str:
    """What a test set is called in titles."""
    return _TITLES.get(test, test)


def unfinished(arm: Arm) -> str:
    """For example "2 of 5 diverged"; empty if all runs are done."""
    counts, total = arm.statuses, len(arm.cells)
    return ", ".join(f"{counts[s]} of {total} {s}" for s in ("diverged", "failed") if counts[s])


# ---- bars


def bars(
    dataset: DatasetResults, metric: str, published: Sequence[PublishedValue], style: Callable[[Arm], Style]
) -> Figure:
    """Every method's result: on average over centers, and on the pooled test data."""
    tests = [test for test in (MEAN, POOLED) if test in dataset.tests] or list(dataset.tests[:1])
    rows = _rows(dataset.arms)
    variants = list(dict.fromkeys(value.variant for value in published))
    figure = _figure(1.25 + (0.235 + 0.08 * max(len(variants) - 1, 0)) * (max(rows) + 1))
    axes = figure.subplots(1, len(tests), squeeze=False, sharex=True, sharey=True)[0]
    for axis, test in zip(axes, tests, strict=True):
        for row, arm in zip(rows, dataset.arms, strict=True):
            _bar(axis, row - 0.1 * max(len(variants), 1), arm.result(test, metric), style(arm).colour)
            _say_in_words(axis, row, arm, arm.result(test, metric))
            for place, variant in enumerate(variants):
                of_arm = [v for v in published if (v.method, v.test, v.variant) == (arm.method, test, variant)]
                _published(axis, row + 0.4 - 0.2 * (len(variants) - 1 - place), of_arm)
        _finish_bars(axis, test, metric)
    _limit(axes)
    axes[0].set_yticks(rows, [arm.label for arm in dataset.arms], fontsize=_SMALL)
    axes[0].set_ylim(max(rows) + 0.7, -0.7)
    _legend(figure, [*_bar_keys(), *_published_keys(published)], columns=3)
    return figure


def _rows(arms: Sequence[Arm]) -> list[float]:
    """A line an arm, with a gap between Pooled, the locals and the strategies."""
    kinds = [2 if arm.is_strategy else int(arm.method.startswith(LOCAL)) for arm in arms]
    gaps = [0.0, *(0.5 * (a != b) for a, b in pairwise(kinds))]
    return [row + gap for row, gap in enumerate(np.cumsum(gaps))][: len(arms)]


def _bar(axis: Axes, row: float, result: OverSeeds, colour: str) -> None:
    if result.n:
        axis.barh(row, result.mean, height=0.44, color=colour, alpha=0.85, zorder=2)
        axis.plot(list(result.values.values()), [row] * result.n, linestyle="", marker="o", markersize=2.2,
                  markerfacecolor="white", markeredgecolor="#333333", markeredgewidth=0.5, zorder=4)  # fmt: skip
    if not math.isnan(result.low):
        for colour, width in (("white", 2.4), ("#333333", 1.1)):  # with a rim, to be seen on a black bar
            axis.plot((result.low, result.high), (row, row), color=colour, linewidth=width, zorder=3)


def _say_in_words(axis: Axes, row: float, arm: Arm, result: OverSeeds) -> None:
    """The mean, the number of seeds, and how many did not finish, right of the axis."""
    note = unfinished(arm)
    text = f"{result.mean:.3f} ({result.n})" if result.n else "none"
    axis.annotate(
        text, (1.02, row), xycoords=("axes fraction", "data"), va="center" if not note else "bottom", fontsize=_TINY
    )
    if note:
        axis.annotate(note, (1.02, row), xycoords=("axes fraction", "data"), va="top", fontsize=5.5, color="#A02000")


def _published(axis: Axes, row: float, values: Sequence[PublishedValue]) -> None:
    for value in values:
        low, high = mean_interval(value.mean, value.sd**2, value.n)
        if not math.isnan(low):
            axis.plot((low, high), (row, row), color="#777777", linewidth=0.8, zorder=3)
        axis.plot(value.mean, row, marker=_VARIANTS[value.variant][0], markersize=3.6, markerfacecolor="white",
                  markeredgecolor="#333333", markeredgewidth=0.8, zorder=5)  # fmt: skip


def _finish_bars(axis: Axes, test: str, metric: str) -> None:
    axis.set_title(title_of(test), fontsize=_SMALL + 1)
    axis.set_xlabel(metric_name(metric), fontsize=_SMALL)
    axis.annotate("mean (seeds)", (1.02, 1.0), xycoords="axes fraction", va="bottom", fontsize=_TINY, color="#555555")
    _plain(axis)
    axis.grid(axis="x", alpha=0.3, linewidth=0.6)
    axis.tick_params(axis="y", length=0)


def _limit(axes: Sequence[Axes]) -> None:
    """Bars begin at 0. The interval of two seeds can be ten times as wide as the figures: it is cut at 0 and 1."""
    left, right = axes[0].get_xlim()
    lengths = [bar.get_width() for axis in axes for bars in axis.containers for bar in bars]
    if all(0 <= length <= 1 for length in lengths):
        axes[0].set_xlim(0.0, min(max(right, 0.1), 1.02))
    else:
        axes[0].set_xlim(min(left, 0.0), max(right, 0.0))


def _bar_keys() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Patch(facecolor="#999999", label="mean over seeds"),
        Line2D([], [], color="#333333", linewidth=1.1, label="95 % interval"),
        Line2D([], [], linestyle="", marker="o", markersize=3, markerfacecolor="white", markeredgecolor="#333333",
               markeredgewidth=0.5, label="one seed"),
    ]  # fmt: skip


def _published_keys(published: Sequence[PublishedValue]) -> list[Any]:
    from matplotlib.lines import Line2D

    return [
        Line2D([], [], color="#777777", linewidth=0.8, marker=marker, markersize=4, markerfacecolor="white",
               markeredgecolor="#333333", markeredgewidth=0.8, label=label)
        for variant, (marker, label) in _VARIANTS.items()
        if any(value.variant == variant for value in published)
    ]  # fmt: skip


# ---- curves


def in_groups(strategies: Sequence[Arm]) -> list[Sequence[Arm]]:
    """As many in each as there are colours: more curves in one picture cannot be read."""
    return [strategies[first : first + len(COLOURS)] for first in range(0, len(strategies), len(COLOURS))]


def curves(dataset: DatasetResults, metric: str, style: Callable[[Arm], Style], arms: Sequence[Arm]) -> Figure:
    """Strategies over the rounds, a panel a hospital, then the mean over hospitals and the pooled data.

    Args:
        dataset: all its strategies are drawn, so that several pictures have the same axes.
        metric: what is drawn.
        style: from `styles`.
        arms: those with colours and a name; the others are grey.
    """
    tests = dataset.tests
    columns = 2 if len(tests) == 4 else min(3, len(tests))
    lines = math.ceil(len(tests) / columns)
    figure = _figure(1.85 * lines + 0.25 + 0.17 * math.ceil((len(arms) + 2) / 3))
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).flat
    for number, axis in enumerate(axes):
        if number >= len(tests):
            axis.remove()
            continue
        test = tests[number]
        _references(axis, dataset, test, metric)
        for place, arm in enumerate(dataset.strategies):
            points = [(number, value) for number, _, value in arm.curve(test, metric)]
            _line(axis, arm, points, style(arm) if arm in arms else None, place)
        axis.set_title(title_of(test), fontsize=_SMALL + 1)
        _plain(axis)
        axis.grid(alpha=0.3, linewidth=0.6)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if number + columns >= len(tests):
            axis.set_xlabel("round", fontsize=_SMALL)
            axis.tick_params(labelbottom=True)
        if number % columns == 0:
            axis.set_ylabel(metric_name(metric), fontsize=_SMALL)
    _legend(figure, _line_keys(arms, style, local=True, others=len(arms) < len(dataset.strategies)), columns=3)
    return figure


def bytes_sent(dataset: DatasetResults, metric: str, style: Callable[[Arm], Style], arms: Sequence[Arm]) -> Figure:
    """The figure against the bytes sent so far, both ways, by all nodes together. Arguments as of `curves`."""
    from matplotlib.ticker import EngFormatter

    tests = [test for test in (MEAN, POOLED) if test in dataset.tests] or list(dataset.tests[:1])
    figure = _figure(2.6 + 0.17 * math.ceil((len(arms) + 2) / 3))
    axes = figure.subplots(1, len(tests), squeeze=False, sharex=True, sharey=True)[0]
    sent: list[float] = []
    for axis, test in zip(axes, tests, strict=True):
        _references(axis, dataset, test, metric)
        for place, arm in enumerate(dataset.strategies):
            points = [(number, value) for _, number, value in arm.curve(test, metric) if number > 0]
            sent += [number for number, _ in points]
            _line(axis, arm, points, style(arm) if arm in arms else None, place)
        axis.set_title(title_of(test), fontsize=_SMALL + 1)
        axis.set_xlabel("sent to and from all nodes", fontsize=_SMALL)
        _plain(axis)
        axis.grid(alpha=0.3, linewidth=0.6)
    axes[0].set_ylabel(metric_name(metric), fontsize=_SMALL)
    if sent:
        if max(sent) / min(sent) > 50:
            axes[0].set_xscale("log")
        else:
            axes[0].set_xlim(left=0.0)
            axes[0].xaxis.get_major_locator().set_params(nbins=5)
        axes[0].xaxis.set_major_formatter(EngFormatter(unit="B", sep=" "))
    _legend(figure, _line_keys(arms, style, local=False, others=len(arms) < len(dataset.strategies)), columns=3)
    return figure


def _line(axis: Axes, arm: Arm, points: Sequence[tuple[float, float]], style: Style | None, place: int) -> None:
    """Narrow lines lie on wide ones, with markers at other points, so that equal ones are all seen."""
    if not points:
        return
    x, y = zip(*points, strict=True)
    if style is None:
        axis.plot(x, y, color=_GREY, linewidth=0.8, zorder=1)
        return
    every = max(len(x) // 2, 1)
    axis.plot(x, y, color=style.colour, linestyle=style.line, marker=style.marker, markersize=3.4,
              markevery=(place % every, every), linewidth=style.width, zorder=3 - style.width / 10)  # fmt: skip
    if not arm.statuses["done"]:
        axis.plot(x[-1], y[-1], marker="X", color=style.colour, markersize=7, markeredgecolor="black", zorder=6)


def _references(axis: Axes, dataset: DatasetResults, test: str, metric: str) -> None:
    for arm in dataset.arms:
        value = arm.result(test, metric).mean
        if arm.method == POOLED_MODEL and math.isfinite(value):
            axis.axhline(value, color="#000000", linewidth=1, linestyle=(0, (6, 2)), zorder=1)
        if arm.method == LOCAL + test and math.isfinite(value):
            axis.axhline(value, color="#8A8A8A", linewidth=1, linestyle=(0, (1, 1)), zorder=1)


def _line_keys(arms: Sequence[Arm], style: Callable[[Arm], Style], local: bool, others: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    keys = [Line2D([], [], color="#000000", linewidth=1, linestyle=(0, (6, 2)), label="Pooled, its result")]
    if local:
        keys.append(Line2D([], [], color="#8A8A8A", linewidth=1, linestyle=(0, (1, 1)), label="this center's Local"))
    if others:
        keys.append(Line2D([], [], color=_GREY, linewidth=0.8, label="other strategies"))
    for arm in arms:
        look, note = style(arm), unfinished(arm)
        keys.append(
            Line2D([], [], color=look.colour, linestyle=look.line, marker=look.marker, markersize=3.4,
                   linewidth=look.width, label=f"{arm.label}: {note}" if note else arm.label)
        )  # fmt: skip
    return keys


# ---- heat map


def heat_map(dataset: DatasetResults, metric: str) -> Figure:
    """Each model on each center's test data: rows are models, columns test sets."""
    arms, tests = dataset.arms, dataset.tests
    values = np.array([[arm.result(test, metric).mean for test in tests] for arm in arms]).reshape(
        len(arms), len(tests)
    )
    shown = np.ma.masked_invalid(values)
    names = [title_of(test) for test in tests]
    turned = sum(map(len, names)) > 60
    figure = _figure(0.95 + 0.215 * len(arms) + turned * 0.05 * max(map(len, names)))
    axis = figure.subplots()
    image = axis.imshow(shown, aspect="auto", cmap="viridis")
    low, high = image.get_clim()
    for row, arm in enumerate(arms):
        for column, test in enumerate(tests):
            finite = math.isfinite(values[row, column])
            dark = finite and values[row, column] < low + 0.55 * (high - low)
            text = f"{values[row, column]:.2f}" if finite else _no_value(arm)
            axis.text(column, row, text, ha="center", va="center", fontsize=_TINY, color="white" if dark else "black")
            if arm.method == LOCAL + test:
                axis.add_patch(_own(column, row))
    axis.set_xticks(range(len(tests)), names, fontsize=_SMALL)
    if turned:
        axis.tick_params(axis="x", labelrotation=30)
        for label in axis.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axis.set_yticks(range(len(arms)), [arm.label for arm in arms], fontsize=_SMALL)
    axis.set_xlabel("test data", fontsize=_SMALL)
    axis.set_ylabel("model", fontsize=_SMALL)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    if len(dataset.centers) < len(tests):
        axis.axvline(len(dataset.centers) - 0.5, color="white", linewidth=3)
    bar = figure.colorbar(image, ax=axis, fraction=0.03, pad=0.015)
    bar.set_label(metric_name(metric), fontsize=_SMALL)
    bar.ax.tick_params(labelsize=_TINY)
    bar.outline.set_visible(False)
    return figure


def _no_value(arm: Arm) -> str:
    return next((status for status in ("diverged", "failed") if arm.statuses[status] == len(arm.cells)), "–")


def _own(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.46, row - 0.44), 0.92, 0.88, fill=False, edgecolor="#D55E00", linewidth=1.4)


# ---- parts


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")


def _plain(axis: Axes) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=_SMALL)
    axis.set_axisbelow(True)


def _legend(figure: Figure, keys: Sequence[Any], columns: int) -> None:
    figure.legend(handles=list(keys), loc="outside lower center", ncols=columns, frameon=False, fontsize=_SMALL,
                  handlelength=3.4)  # fmt: skip
