"""The figure of a `polyclinic.datasets.describe.Description`: one panel a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from polyclinic.datasets.describe import Description

_MOST_FEATURES = 40
_LONGEST_NAME = 18


def draw(found: Description) -> Figure:
    """Who holds how much, of what, and how inputs differ; a row of panels."""
    from matplotlib.figure import Figure

    panels = _panels(found)
    height = max(2.6, 1.4 + 0.28 * len(found.centers))
    figure = Figure(figsize=(3.6 * len(panels), min(height, 12)), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, panel in zip(axes, panels, strict=True):
        panel(axis)
    figure.suptitle(f"{found.name}: how the centers differ", fontsize="medium")
    return figure


def _panels(found: Description) -> list[Callable[[Axes], None]]:
    panels: list[Callable[[Axes], None]] = [
        lambda axis: _bars(axis, found.centers, ("train", "test"), found.sizes, "samples")
    ]
    if found.origins is not None:
        names, counts = found.origins
        panels.append(lambda axis: _bars(axis, found.centers, names, counts, "samples by their own center"))
    if found.targets[0].kind in ("number", "mask"):
        title = "target" if found.targets[0].kind == "number" else "foreground, fraction of the mask"
        values = [target.values for target in found.targets]
        panels.append(lambda axis: _boxes(axis, found.centers, values, title))
    else:
        shares = found.group_counts / np.maximum(found.group_counts.sum(axis=1, keepdims=True), 1)
        panels.append(lambda axis: _bars(axis, found.centers, found.group_names, shares, "share of targets"))
    if found.targets[0].kind == "survival":
        times = [target.values[:, 1] for target in found.targets]
        panels.append(lambda axis: _boxes(axis, found.centers, times, "time"))
    if found.features:
        panels.append(lambda axis: _heat(axis, found))
    if found.images:
        medians = [center.medians for center in found.images]
        panels.append(lambda axis: _boxes(axis, found.centers, medians, "median of an input"))
    return panels


def _bars(axis: Axes, centers: Sequence[str], names: Sequence[str], values: NDArray[Any], title: str) -> None:
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.linspace(0.1, 0.9, len(names)))
    left = np.zeros(len(centers))
    for number, name in enumerate(names):
        axis.barh(range(len(centers)), values[:, number], left=left, color=colours[number], label=name)
        left += values[:, number]
    _name_rows(axis, centers, title)
    if len(names) <= 10:
        axis.legend(frameon=False, fontsize="x-small", ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _boxes(axis: Axes, centers: Sequence[str], values: Sequence[NDArray[Any]], title: str) -> None:
    """Boxes from quarter to quarter with the median, and lines from 5 to 95 %."""
    # Quantiles alone: an outlier would be one patient.
    for row, of_center in enumerate(values):
        low, left, middle, right, high = np.quantile(of_center, (0.05, 0.25, 0.5, 0.75, 0.95))
        axis.plot((low, high), (row, row), color="0.4", linewidth=1, zorder=1)
        axis.barh(row, right - left, left=left, height=0.6, color="white", edgecolor="0.2", zorder=2)
        axis.plot((middle, middle), (row - 0.3, row + 0.3), color="tab:orange", zorder=3)
    _name_rows(axis, centers, title)


def _heat(axis: Axes, found: Description) -> None:
    differences = found.differences()
    order = np.sort(np.argsort(-np.abs(differences).max(axis=0), kind="stable")[:_MOST_FEATURES])
    shown = differences[:, order]
    limit = max(float(np.abs(shown).max()), 1e-9)
    image = axis.imshow(shown, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit)
    _name_rows(axis, found.centers, "difference in mean of features (sd)")
    names = [found.feature_names[k] for k in order]
    short = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names]
    axis.set_xticks(range(len(order)), short, rotation=90, fontsize="xx-small")
    if axis.figure is not None:
        axis.figure.colorbar(image, ax=axis, fraction=0.05)


def _name_rows(axis: Axes, centers: Sequence[str], title: str) -> None:
    axis.set_yticks(range(len(centers)), centers, fontsize="x-small")
    axis.set_ylim(len(centers) - 0.5, -0.5)
    axis.set_title(title, fontsize="small")
    axis.tick_params(axis="x", labelsize="x-small")
    axis.spines[["top", "right"]].set_visible(False)
