"""The tables of a benchmark report."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Sequence

from polyclinic.benchmark.captions import bytes_in_words, counted
from polyclinic.benchmark.figures import metric_name, title_of
from polyclinic.benchmark.over_seeds import POOLED_MODEL, Arm, DatasetResults, OverSeeds, Results, mean_interval
from polyclinic.benchmark.published import PublishedValue
from polyclinic.benchmark.results import MEAN, POOLED
from polyclinic.html import element, table


def result_table(dataset: DatasetResults, metric: str) -> str:
    """Each method's figures with intervals."""
    tests = _overall(dataset)
    rows = [
        [arm.label, *_statuses(arm), *(in_words(arm.result(test, metric)) for test in tests)] for arm in dataset.arms
    ]
    head = ["method", "done", "diverged", "failed", *(f"{title_of(test)} [95 % interval] (n)" for test in tests)]
    caption = (
        f"{metric_name(metric, first=True)} on {dataset.name}: mean over the seeds that are done, Student's interval, "
        "and the number of seeds. The numbers of runs stand before."
    )
    return table(head, rows, caption)


def difference_table(dataset: DatasetResults, metric: str) -> str:
    """Each method against Pooled, paired by seed."""
    tests = _overall(dataset)
    rows = []
    for arm in dataset.arms:
        pooled = dataset.pooled_for(arm)
        if pooled is not None and arm.method != POOLED_MODEL:
            rows.append([arm.label, *(in_words(arm.against(pooled, test, metric), signed=True) for test in tests)])
    if not rows:
        return element("p", "There is no Pooled training in these files to compare with.", "soft")
    head = ["method − Pooled", *(f"{title_of(test)} [95 % interval] (n)" for test in tests)]
    caption = (
        f"Difference in {metric_name(metric)} from Pooled, seed by seed: mean difference, its Student's interval, and "
        "the number of seeds that both have. An interval that holds 0 is no evidence of a difference; no correction "
        "is made for the number of comparisons."
    )
    return table(head, rows, caption)


def published_table(dataset: DatasetResults, metric: str, published: Sequence[PublishedValue]) -> str:
    """Here and as published, method by method."""
    tests = _overall(dataset)
    rows = []
    for arm in dataset.arms:
        for variant in dict.fromkeys(value.variant for value in published if value.method == arm.method):
            cells = []
            for test in tests:
                (value,) = [v for v in published if (v.method, v.test, v.variant) == (arm.method, test, variant)]
                here = arm.result(test, metric).mean
                cells += [_published_words(value), "" if math.isnan(here) else _minus(f"{here - value.mean:+z.3f}")]
            rows.append([arm.label, variant or "main", *cells])
    if not rows:
        return element("p", "None of these methods was published.", "soft")
    head = [
        "method",
        "published as",
        *(f"{title_of(t)}{what}" for t in tests for what in (", published", ", difference")),
    ]
    caption = (
        f"{metric_name(metric, first=True)} that FLamby published for {dataset.name}: mean [95 % interval from its "
        "standard deviation and number of seeds] (n), and how far the mean here is from it."
    )
    return table(head, rows, caption, words=[1])


def cost_table(dataset: DatasetResults) -> str:
    """What each method took."""
    rows = []
    for arm in dataset.arms:
        done = [cell for cell in arm.cells if cell.first.status == "done"]
        rounds = sorted({cell.round for cell in done})
        between = f"{rounds[0]}" if len(rounds) == 1 else f"{rounds[0]}–{rounds[-1]}" if rounds else ""
        sent = [max(row.bytes for row in cell.rows) for cell in done]
        seconds = [cell.first.seconds for cell in done]
        memory = [cell.first.peak_memory for cell in done]
        words = [
            bytes_in_words(statistics.fmean(sent)) if sent and arm.is_strategy else "",
            f"{statistics.fmean(seconds):.3g}" if seconds else "",
            bytes_in_words(max(memory)) if memory else "",
        ]
        rows.append([arm.label, between, *words])
    caption = (
        "Cost of a run that is done: rounds; bytes that a strategy sent to and from all nodes, and seconds of the "
        "whole run, judging included, both as mean over seeds; the highest memory of the process that ran it."
    )
    return element("h3", "Cost") + table(["method", "rounds", "bytes sent", "seconds", "peak memory"], rows, caption)


def configuration_table(dataset: DatasetResults) -> str:
    """What was set: for all methods alike, then what each has of its own."""
    first = dataset.arms[0].configuration
    alike = {k: v for k, v in first.items() if all(arm.configuration.get(k) == v for arm in dataset.arms)}
    rows = [["all methods", _settings(alike)]] if len(dataset.arms) > 1 else []
    for arm in dataset.arms:
        own = {k: v for k, v in arm.configuration.items() if len(dataset.arms) == 1 or k not in alike}
        if own:
            rows.append([arm.label, _settings(own)])
    caption = (
        f"Everything that decides a result on {dataset.name}, besides data and seed. Methods that are not named have "
        "no settings of their own."
    )
    return element("h3", "Settings") + table(["method", "settings"], rows, caption, words=[1])


def unfinished_table(results: Results) -> str:
    """All runs that gave no result."""
    rows = [
        [arm.label, dataset.name, str(cell.first.seed), cell.first.status, str(cell.round), cell.first.detail]
        for dataset in results.datasets
        for arm in dataset.arms
        for cell in arm.cells
        if cell.first.status != "done"
    ]
    heading = element("h2", "Runs that did not finish")
    if not rows:
        return heading + element("p", "None: every run came to its end with a figure.")
    head = ["method", "dataset", "seed", "status", "in round", "why"]
    caption = (
        "Diverged: the model or its figures became not finite. Failed: an error; the run is tried again next time."
    )
    return heading + table(head, rows, caption, words=[1, 3, 5])


def versions_table(results: Results) -> str:
    """With what the runs were made."""
    texts = Counter(cell.first.versions for cell in results.cells)
    rows = [[counted(number, "run"), _versions(text)] for text, number in texts.items()]
    caption = "Versions of Python and packages that made the runs."
    return element("h2", "Versions") + table(["", "versions"], rows, caption, words=[1])


def in_words(result: OverSeeds, signed: bool = False) -> str:
    """For example "0.735 [0.731, 0.739] (5)"."""
    if not result.n:
        return "none"
    form = "+z.3f" if signed else "z.3f"
    interval = "" if math.isnan(result.low) else f" [{result.low:{form}}, {result.high:{form}}]"
    return _minus(f"{result.mean:{form}}{interval} ({result.n})")


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _published_words(value: PublishedValue) -> str:
    low, high = mean_interval(value.mean, value.sd**2, value.n)
    return in_words(OverSeeds(value.mean, low, high, dict.fromkeys(range(value.n), value.mean)))


def _overall(dataset: DatasetResults) -> list[str]:
    return [test for test in (MEAN, POOLED) if test in dataset.tests]


def _statuses(arm: Arm) -> list[str]:
    return [str(arm.statuses[status]) for status in ("done", "diverged", "failed")]


def _settings(settings: dict[str, str]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in sorted(settings.items())) or "–"


def _versions(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        return text
    return (
        ", ".join(f"{name} {version}" for name, version in sorted(found.items())) if isinstance(found, dict) else text
    )
