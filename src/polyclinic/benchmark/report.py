"""A benchmark's report: one page of HTML that needs no network, and its pictures as PNG files beside it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from polyclinic.benchmark import captions, figures, tables
from polyclinic.benchmark.over_seeds import Arm, DatasetResults, Results, read_results
from polyclinic.benchmark.published import MAIN_VARIANTS, PublishedValue, published_values
from polyclinic.errors import ConfigError
from polyclinic.html import css, element, figure, page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
_DPI = 200


def write_report(paths: Sequence[str | Path], to: str | Path, *, published: bool = False) -> Path:
    """Writes ``report.html`` and its pictures.

    Args:
        paths: results files, all of one protocol.
        to: a folder, made if it is not there; files of an earlier report in it are replaced.
        published: show FLamby's published values beside these.

    Returns:
        The page's path.

    Raises:
        ConfigError: no file, one that cannot be used (see `read_results`), or a folder that cannot be written.
    """
    results = read_results(paths)
    folder = Path(to)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        style = figures.styles(results.datasets)
        sections = [_dataset(dataset, folder, style, published) for dataset in results.datasets]
        text = page(captions.title(results), css(), [*_beginning(results), *sections, *_end(results, published)])
        (folder / PAGE).write_text(text, encoding="utf-8")
    except OSError as err:
        raise ConfigError(
            f"the report cannot be written to {folder}: {err.strerror or err}", to_do="give another folder by --to"
        ) from err
    return folder / PAGE


def _beginning(results: Results) -> list[str]:
    links = "".join(f'<li><a href="#{anchor(d.name)}">{element("span", d.name)}</a></li>' for d in results.datasets)
    return [
        element("h1", captions.title(results)),
        element("p", captions.contents(results), "soft"),
        *(f'<div class="warning" role="note">{element("p", text)}</div>' for text in results.warnings),
        f'<nav aria-label="Datasets"><ul>{links}</ul></nav>',
        element("h2", "Protocol"),
        *(element("p", text) for text in captions.protocol(results)),
        element("h3", "How to read the figures"),
        *(element("p", text) for text in captions.HOW_TO_READ),
    ]


def _dataset(dataset: DatasetResults, folder: Path, style: Callable[[Arm], figures.Style], with_published: bool) -> str:
    name = anchor(dataset.name)
    head = f'<h2 class="dataset" id="{name}">{element("span", dataset.name)}</h2>'
    if not dataset.tests:
        nothing = element("p", "No run on this dataset gave a figure: there is nothing to draw.")
        return "\n".join([head, nothing, tables.result_table(dataset, ""), tables.configuration_table(dataset)])
    parts = [head, element("p", captions.dataset_facts(dataset))]

    def add(kind: str, drawn: Figure, what: captions.Words) -> None:
        parts.append(figure(_saved(drawn, folder / f"{name}-{kind}.png"), what.alt, what.caption, what.title))

    main = dataset.metrics[0]
    for metric in dataset.metrics:
        shown = _published_of(dataset, metric) if with_published else []
        ending = "" if metric == main else f"-{anchor(metric)}"
        add(f"bars{ending}", figures.bars(dataset, metric, shown, style), captions.bars(dataset, metric, shown))
        parts += [tables.result_table(dataset, metric), tables.difference_table(dataset, metric)]
        if shown:
            parts.append(tables.published_table(dataset, metric, shown))
    groups = list(enumerate(figures.in_groups(dataset.strategies), start=1))
    for number, arms in groups:
        add(f"curves-{number}", figures.curves(dataset, main, style, arms), captions.curves(dataset, main, arms))
    for number, arms in groups:
        add(f"bytes-{number}", figures.bytes_sent(dataset, main, style, arms), captions.bytes_sent(dataset, main, arms))
    if not groups:
        parts.append(element("p", "There is no strategy in these files, so there are no curves and no bytes sent."))
    add("heat-map", figures.heat_map(dataset, main), captions.heat_map(dataset, main))
    return "\n".join([*parts, tables.cost_table(dataset), tables.configuration_table(dataset)])


def _end(results: Results, with_published: bool) -> list[str]:
    return [
        tables.unfinished_table(results),
        tables.versions_table(results),
        *([element("h2", "Where the published values are from"), element("p", captions.SOURCE)] * with_published),
    ]


def _published_of(dataset: DatasetResults, metric: str) -> list[PublishedValue]:
    return [
        value
        for value in published_values()
        if value.dataset == dataset.name and value.metric == metric and value.variant in MAIN_VARIANTS
    ]


def _saved(drawn: Figure, path: Path) -> str:
    """Writes the picture, and returns it as the address that a page without files beside it shows."""
    content = io.BytesIO()
    drawn.savefig(content, format="png", dpi=_DPI)
    path.write_bytes(content.getvalue())
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def anchor(name: str) -> str:
    """A name as it can stand in an address and in a file's name."""
    return re.sub(r"[^\w-]+", "-", name)
