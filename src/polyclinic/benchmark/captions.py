"""What a benchmark report says in words: its protocol, and what each picture shows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from polyclinic.benchmark.figures import metric_name, title_of
from polyclinic.benchmark.over_seeds import LOCAL, Arm, DatasetResults, Results
from polyclinic.benchmark.published import PublishedValue
from polyclinic.benchmark.results import MEAN, POOLED
from polyclinic.errors import ConfigError

HOW_TO_READ = (
    "Pooled is one model trained on all centers' training data together, which a federation cannot do. Local models "
    "are each trained on one center's data alone. All others are federated strategies. Every model is judged on the "
    "test data of every center, on all test data together (“pooled test data”), and “mean over centers” is the "
    "unweighted mean of the centers' figures.",
    "A figure is the mean over the seeds whose run came to its end; n is their number. The interval is the 95 % "
    "interval of that mean by Student's t, mean ± t(0.975, n − 1) · s / √n. It tells how much figures change with "
    "the seed, not how they would change with other patients. One seed has no interval. Runs that diverged or failed "
    "are counted and listed, not averaged: a mean over the seeds that are left may flatter its method.",
    "Differences from Pooled are taken seed by seed, and their interval is that of the mean difference.",
)
SOURCE = (
    "Published values: J. Ogier du Terrail et al., FLamby: Datasets and Benchmarks for Cross-Silo Federated Learning "
    "in Realistic Healthcare Settings, NeurIPS 2022 Datasets and Benchmarks, arXiv:2210.04620, and the results files "
    "of the FLamby repository (MIT licence). Their intervals are computed here from the published mean, standard "
    "deviation and number of seeds, as for all others. Fed-Camelyon16 was published three times: with the current "
    "ResNet-50 features, with Phikon features, and, as “legacy”, as plotted in the paper. Published Fed-LIDC-IDRI is "
    "one run. The published Cyclic passed no weights from center to center."
)


@dataclass(frozen=True)
class Words:
    """What stands around a picture."""

    title: str
    alt: str
    caption: str


def title(results: Results) -> str:
    """The page's title."""
    return f"Benchmark report, protocol “{results.protocol}”"


def contents(results: Results) -> str:
    """What the files hold."""
    counts = Counter(cell.first.status for cell in results.cells)
    runs = ", ".join(f"{counts[status]} {status}" for status in ("done", "diverged", "failed") if counts[status])
    ended = sorted(cell.first.finished for cell in results.cells)
    when = ended[0][:10] if ended[0][:10] == ended[-1][:10] else f"{ended[0][:10]} to {ended[-1][:10]}"
    files = f"{'file' if len(results.files) == 1 else 'files'} {', '.join(results.files)}"
    return f"{counted(len(results.cells), 'run')} ({runs}) of {when}, from {files}."


def protocol(results: Results) -> list[str]:
    """How the figures were made, as far as the protocol and the files tell."""
    seeds = sorted({cell.first.seed for cell in results.cells})
    return [
        *([f"Protocol “{results.protocol}”: {summary}."] if (summary := _summary(results.protocol)) else []),
        f"{counted(len(seeds), 'seed')}: {', '.join(map(str, seeds))}. What was set for each method, rounds and local "
        "updates included, is in the table “Settings” of each dataset.",
    ]


def _summary(name: str) -> str:
    try:
        from polyclinic.benchmark.protocols import PROTOCOLS
    except ImportError:  # a report can be made where torch is not installed
        return ""
    return PROTOCOLS[name].summary.rstrip(".") if name in PROTOCOLS else ""


def dataset_facts(dataset: DatasetResults) -> str:
    """Who is there, and how much test data."""
    sizes = ", ".join(f"{center} {dataset.num_samples(center)}" for center in dataset.centers)
    seeds = sorted({cell.first.seed for cell in dataset.cells})
    total = dataset.num_samples(POOLED)
    tested = f"Test samples: {sizes}{f'; together {total}' if total else ''}. " if dataset.centers else ""
    metric = f"Metric: {metric_name(dataset.metrics[0])}{_direction(dataset.metrics[0])}. "
    return f"{counted(len(dataset.centers), 'center')}. {tested}{metric}Seeds: {', '.join(map(str, seeds))}."


def bars(dataset: DatasetResults, metric: str, published: Sequence[PublishedValue]) -> Words:
    """Of the bar chart."""
    tests = [test for test in (MEAN, POOLED) if test in dataset.tests]
    shown = MEAN if MEAN in tests else POOLED
    values = [
        f"{arm.label} {result.mean:.3f}" if (result := arm.result(shown, metric)).n else f"{arm.label} none"
        for arm in dataset.arms
    ]
    caption = (
        f"{metric_name(metric, first=True)} of each method on {dataset.name}{_direction(metric)}. Bars: mean over the "
        "seeds that are done. Dark lines: 95 % interval of the mean (Student's t), cut at 0 and 1. Dots: single seeds. "
        "At the right: the mean, in brackets the number of seeds, and below it how many runs did not finish."
    )
    if published:
        caption += (
            " Diamonds and triangles: FLamby's published means with the interval that follows from their "
            "standard deviation and number of seeds; without a line where there was one run."
        )
    return Words(
        f"{metric_name(metric, first=True)} of all methods",
        f"Bar chart, {metric_name(metric)} on {dataset.name}, {title_of(shown)}: {'; '.join(values)}.",
        caption,
    )


def curves(dataset: DatasetResults, metric: str, arms: Sequence[Arm]) -> Words:
    """Of the curves over rounds of these strategies."""
    ends = [
        f"{arm.label} {points[-1][2]:.3f} after round {points[-1][0]}"
        for arm in arms
        if (points := arm.curve(MEAN, metric))
    ]
    return Words(
        f"Convergence at each hospital{_which(dataset, arms)}",
        f"Line charts, {metric_name(metric)} on {dataset.name} over the rounds, a panel a center. "
        f"Mean over centers at the end: {'; '.join(ends) or 'none'}.",
        f"{metric_name(metric, first=True)} on each center's test data after each round that was judged, mean over "
        "the seeds that are done; rounds that not all of these have reached are left out. A strategy none of whose "
        "runs is done is drawn over all its runs up to where they end, marked by a cross; one without any figure has "
        "no line. Narrow lines lie on wide ones, so that equal ones are seen. Dashed: the result of Pooled on "
        "the same test data. Dotted: the result of the center's own Local model. A result is that of the round which "
        "the protocol chose: the last one, or an earlier one.",
    )


def bytes_sent(dataset: DatasetResults, metric: str, arms: Sequence[Arm]) -> Words:
    """Of the chart against bytes of these strategies."""
    ends = [
        f"{arm.label} {points[-1][2]:.3f} for {bytes_in_words(points[-1][1])}"
        for arm in arms
        if (points := arm.curve(MEAN, metric))
    ]
    return Words(
        f"{metric_name(metric, first=True)} against bytes sent{_which(dataset, arms)}",
        f"Line charts, {metric_name(metric)} on {dataset.name} against bytes sent: {'; '.join(ends) or 'none'}.",
        "The same points, against all bytes that were sent to and from all nodes together until then, mean over seeds. "
        "The axis is logarithmic where strategies differ by more than fifty times. Dashed: the result of Pooled, which "
        "sends no model but would need all records in one place.",
    )


def heat_map(dataset: DatasetResults, metric: str) -> Words:
    """Of model k on center j."""
    own = [
        f"{arm.label} at home {arm.result(arm.method.removeprefix(LOCAL), metric).mean:.3f}, "
        f"on average {arm.result(MEAN, metric).mean:.3f}"
        for arm in dataset.arms
        if arm.method.startswith(LOCAL) and arm.result(MEAN, metric).n
    ]
    return Words(
        "Each model on each center",
        f"Heat map, {metric_name(metric)} of {counted(len(dataset.arms), 'model')} on the test data of "
        f"{counted(len(dataset.centers), 'center')} of {dataset.name}. {'; '.join(own)}.",
        f"{metric_name(metric, first=True)} of the model in the row on the test data of the column, mean over the "
        "seeds that are done. Framed: a Local model on its own center's test data. “diverged” and “failed”: no run of "
        "this method came to its end; “–”: no figure, for example where a metric is not defined on a test set.",
    )


def bytes_in_words(number: float) -> str:
    """For example "12.3 MB"; powers of 1000."""
    if not number > 0:
        return "0 B"
    power = min(int(math.log10(number) // 3), 4)
    return f"{number / 1000**power:.3g} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"


def _direction(metric: str) -> str:
    from polyclinic.metrics import get_metric

    try:
        return "; higher is better" if get_metric(metric).higher_is_better else "; lower is better"
    except ConfigError:  # a metric of the dataset's own
        return ""


def _which(dataset: DatasetResults, arms: Sequence[Arm]) -> str:
    return "" if len(arms) == len(dataset.strategies) else f": {', '.join(arm.label for arm in arms)}"


def counted(number: int, what: str) -> str:
    """For example "1 run", "2 runs"."""
    return f"{number} {what}{'' if number == 1 else 's'}"
