"""Results files put in order: datasets, their methods, and figures over seeds with intervals.

A method's figure is the mean over the seeds whose run is "done" and gave a number; its interval is Student's,
mean ± t(0.975, n-1) · s / √n, so one seed has none. Runs that diverged or failed are counted beside it, never averaged.
A comparison is paired by seed: the interval is that of the differences.
"""

from __future__ import annotations

import json
import math
import statistics
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from polyclinic.benchmark.results import MEAN, POOLED, ResultRow, ResultsFile
from polyclinic.errors import ConfigError
from polyclinic.metrics.intervals import NO_INTERVAL, student_t

POOLED_MODEL = "Pooled"
LOCAL = "Local "
# Those of FLamby come first, in its order; others follow by name.
FIRST_STRATEGIES = ("FedAverage", "FedProx", "Scaffold", "Cyclic", "FedAdam", "FedYogi", "FedAdagrad")
_LONGEST_LABEL = 48


@dataclass(frozen=True)
class OverSeeds:
    """A figure over seeds.

    Attributes:
        mean: NaN without a value.
        low, high: the 95 % interval of the mean; NaN with fewer than two values.
        values: by seed.
    """

    mean: float
    low: float
    high: float
    values: Mapping[int, float]

    @property
    def n(self) -> int:
        """How many seeds have a value."""
        return len(self.values)


def over_seeds(values: Mapping[int, float]) -> OverSeeds:
    """Mean and Student's 95 % interval of values by seed. Those that are not finite are left out."""
    kept = {seed: value for seed, value in sorted(values.items()) if math.isfinite(value)}
    mean = statistics.fmean(kept.values()) if kept else math.nan
    variance = statistics.variance(kept.values()) if len(kept) > 1 else 0.0
    return OverSeeds(mean, *mean_interval(mean, variance, len(kept)), kept)


def mean_interval(mean: float, variance: float, n: int) -> tuple[float, float]:
    """Student's 95 % interval of a mean of ``n`` values with this sample variance; NaN if n < 2 or it is unknown."""
    return NO_INTERVAL if math.isnan(variance) else student_t(mean, variance, n, n)


@dataclass(frozen=True)
class Cell:
    """One run: a method with one seed."""

    rows: tuple[ResultRow, ...]

    @property
    def first(self) -> ResultRow:
        """A row, for what all rows of a run have in common."""
        return self.rows[0]

    @property
    def round(self) -> int:
        """After which round the run's result was taken, or in which it ended."""
        return max(row.round for row in self.rows)

    def final(self, test: str, metric: str) -> float:
        """The result, NaN if there is none."""
        return next((r.value for r in self.rows if r.final and r.test == test and r.metric == metric), math.nan)


@dataclass(frozen=True)
class Arm:
    """A method with one configuration on one dataset, over seeds.

    Attributes:
        method: "Pooled", "Local <center>", or a strategy.
        label: the method's name, with what sets it apart if it was run with several configurations.
        number: of the configuration among those of this method, from 0.
        cells: by seed.
    """

    method: str
    label: str
    number: int
    cells: tuple[Cell, ...]

    @property
    def is_strategy(self) -> bool:
        """Whether it is federated: neither Pooled nor Local."""
        return self.method != POOLED_MODEL and not self.method.startswith(LOCAL)

    @property
    def statuses(self) -> Counter[str]:
        """How many runs are "done", "diverged" and "failed"."""
        return Counter(cell.first.status for cell in self.cells)

    @cached_property
    def configuration(self) -> dict[str, str]:
        """Everything that was set, by dotted name."""
        first = self.cells[0].first
        return _flat(first.configuration, "configuration") | _flat(first.settings, "settings")

    def result(self, test: str, metric: str) -> OverSeeds:
        """The method's result on this test data, over the seeds that are done."""
        return over_seeds({c.first.seed: c.final(test, metric) for c in self.cells if c.first.status == "done"})

    def against(self, other: Arm, test: str, metric: str) -> OverSeeds:
        """This method's result less the other's, seed by seed, over the seeds that both have."""
        mine, theirs = self.result(test, metric).values, other.result(test, metric).values
        return over_seeds({seed: mine[seed] - theirs[seed] for seed in mine if seed in theirs})

    def curve(self, test: str, metric: str) -> list[tuple[int, float, float]]:
        """(round, mean bytes, mean value) in order of rounds.

        A round counts if every run has a number there: a mean must not jump because a seed is absent. The result may be
        that of an earlier round, which then has two equal rows.
        """
        points: dict[int, dict[int, ResultRow]] = defaultdict(dict)
        done = [cell for cell in self.cells if cell.first.status == "done"]
        for cell in done or self.cells:
            for row in cell.rows:
                if row.test == test and row.metric in (metric, "") and math.isfinite(row.value):
                    points[row.round].setdefault(row.seed, row)
        most = max(map(len, points.values()), default=0)
        return [
            (number, statistics.fmean(r.bytes for r in rows.values()), statistics.fmean(r.value for r in rows.values()))
            for number, rows in sorted(points.items())
            if len(rows) == most
        ]


@dataclass(frozen=True)
class DatasetResults:
    """One dataset's methods.

    Attributes:
        name: "fed_…".
        arms: Pooled, Local in the order of centers, then strategies.
        centers: names, in the file's order.
        metrics: names; the first is the dataset's own.
    """

    name: str
    arms: tuple[Arm, ...]
    centers: tuple[str, ...]
    metrics: tuple[str, ...]

    @property
    def tests(self) -> tuple[str, ...]:
        """The test sets that have figures: centers, then "mean" and "pooled"."""
        found = {row.test for cell in self.cells for row in cell.rows}
        return (*self.centers, *(test for test in (MEAN, POOLED) if test in found))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All runs."""
        return tuple(cell for arm in self.arms for cell in arm.cells)

    @property
    def strategies(self) -> tuple[Arm, ...]:
        """The federated methods."""
        return tuple(arm for arm in self.arms if arm.is_strategy)

    def pooled_for(self, arm: Arm) -> Arm | None:
        """The Pooled training to compare with: the one whose configuration is nearest, if there are several."""
        pooled = [other for other in self.arms if other.method == POOLED_MODEL]
        return max(pooled, key=lambda o: len(o.configuration.items() & arm.configuration.items()), default=None)

    def num_samples(self, test: str) -> int:
        """Of a test set; 0 if no row tells."""
        return max((r.num_samples for c in self.cells for r in c.rows if r.test == test), default=0)


@dataclass(frozen=True)
class Results:
    """What the files hold, all of one protocol."""

    protocol: str
    datasets: tuple[DatasetResults, ...]
    files: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All runs."""
        return tuple(cell for dataset in self.datasets for cell in dataset.cells)


def read_results(paths: Sequence[str | Path]) -> Results:
    """Reads results files of one protocol. A run that is in several files counts once, the last one finished.

    Raises:
        ConfigError: no file, a file that is not there, that is no results file or holds no complete run, or files of
            several protocols.
    """
    if not paths:
        raise ConfigError("no results file was given", to_do="name the files that `polyclinic benchmark run` wrote")
    cells: dict[str, list[ResultRow]] = {}
    told: list[str] = []
    protocols: dict[str, set[str]] = defaultdict(set)
    for path in dict.fromkeys(map(Path, paths)):
        rows, warned = _read(path)
        told += warned
        for cell, of_cell in groupby(rows, key=lambda row: row.cell):
            found = list(of_cell)
            protocols[found[0].protocol].add(path.name)
            if cell not in cells or cells[cell][0].finished < found[0].finished:
                cells[cell] = found
    if len(protocols) > 1:
        where = "; ".join(f"{protocol!r} in {', '.join(sorted(names))}" for protocol, names in protocols.items())
        raise ConfigError(
            f"the files hold results of several protocols: {where}",
            to_do="make a report of each protocol by itself: their figures must not be mixed",
        )
    names = sorted({rows[0].dataset for rows in cells.values()})
    datasets = tuple(_dataset(name, [rows for rows in cells.values() if rows[0].dataset == name]) for name in names)
    return Results(next(iter(protocols)), datasets, tuple(Path(path).name for path in paths), tuple(told))


def _read(path: Path) -> tuple[list[ResultRow], list[str]]:
    if not path.is_file():
        raise ConfigError(f"there is no file {path}", to_do="name the file that `polyclinic benchmark run` wrote")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        rows = ResultsFile(path).read()
    told = [str(warning.message).replace(str(path), path.name) for warning in caught]
    if not rows:
        damaged = f" ({'; '.join(told)})" if told else ""
        raise ConfigError(
            f"{path} holds no complete result{damaged}",
            to_do="run `polyclinic benchmark run`, which adds results to it",
        )
    return rows, told


def _dataset(name: str, cells: Sequence[list[ResultRow]]) -> DatasetResults:
    rows = [row for of_cell in cells for row in of_cell]
    centers = tuple(dict.fromkeys(row.test for row in rows if row.test not in (MEAN, POOLED, "")))
    metrics = tuple(dict.fromkeys(row.metric for row in rows if row.metric)) or ("",)
    arms: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for of_cell in cells:
        first = of_cell[0]
        arms[first.method, first.settings, first.configuration].append(Cell(tuple(of_cell)))
    by_method: dict[str, list[tuple[Cell, ...]]] = defaultdict(list)
    for (method, *_), of_arm in sorted(arms.items()):
        by_method[method].append(tuple(sorted(of_arm, key=lambda cell: cell.first.seed)))
    methods = sorted(by_method, key=lambda method: _place(method, centers))
    return DatasetResults(name, tuple(arm for m in methods for arm in _arms(m, by_method[m])), centers, metrics)


def _place(method: str, centers: Sequence[str]) -> tuple[int, int, str]:
    """Where a method stands: Pooled, Local in the order of centers, FLamby's strategies, all others by name."""
    if method == POOLED_MODEL:
        return 0, 0, ""
    if method.startswith(LOCAL):
        center = method.removeprefix(LOCAL)
        return 1, centers.index(center) if center in centers else len(centers), center
    first = FIRST_STRATEGIES
    return 2, first.index(method) if method in first else len(first), method


def _arms(method: str, of_method: Sequence[tuple[Cell, ...]]) -> Iterable[Arm]:
    arms = [Arm(method, method, number, cells) for number, cells in enumerate(of_method)]
    if len(arms) == 1:
        return arms
    keys = sorted({key for arm in arms for key in arm.configuration}, key=lambda key: (-len(key), key))
    # By values, so that one number under two names is told once, under the shorter.
    apart = {tuple(arm.configuration.get(key, "none") for arm in arms): key for key in keys}
    apart = {values: key for values, key in apart.items() if len(set(values)) > 1}
    labels = [", ".join(f"{key}={values[k]}" for values, key in apart.items()) for k in range(len(arms))]
    if len(set(labels)) < len(arms) or max(map(len, labels)) + len(method) > _LONGEST_LABEL:
        labels = [f"configuration {arm.number + 1}" for arm in arms]
    return [Arm(method, f"{method} ({label})", arm.number, arm.cells) for arm, label in zip(arms, labels, strict=True)]


def _flat(text: str, name: str) -> dict[str, str]:
    """JSON as dotted names and their values; what is no JSON object stands under ``name``."""
    try:
        value = json.loads(text) if text else {}
    except ValueError:
        value = text
    return dict(_walk(value, "" if isinstance(value, dict) else name))


def _walk(value: Any, name: str) -> Iterable[tuple[str, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _walk(inner, f"{name}.{key}" if name else str(key))
    else:
        yield name, value if isinstance(value, str) else json.dumps(value)
