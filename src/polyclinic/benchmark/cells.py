"""One cell of a benchmark: a method with a seed on a dataset. Running it gives its rows of the results file."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from polyclinic.benchmark.memory import peak_memory, reset_peak_memory
from polyclinic.benchmark.results import MEAN, POOLED, ResultRow, Status, cell_id
from polyclinic.errors import PolyclinicError
from polyclinic.experiment.versions import versions

LOCAL = "Local "
ALL_DATA = "Pooled"


@dataclass(frozen=True)
class Cell:
    """What is run.

    Attributes:
        protocol: "flamby" or "polyclinic".
        dataset: its name.
        method: "Pooled", "Local <center>", or a strategy's name.
        settings: the method's hyper-parameters, as JSON values.
        seed: of everything random.
        configuration: what else decides the result, as JSON values: rounds, fixes, dataset options.
        data_path: where the data are on this machine; None for datasets that bring their own.
        curve_points: how many points of the curve are measured besides the end; they do not change the result.
    """

    protocol: str
    dataset: str
    method: str
    settings: Mapping[str, Any]
    seed: int
    configuration: Mapping[str, Any]
    data_path: Path | None = None
    curve_points: int = 10

    @property
    def what(self) -> dict[str, Any]:
        """Everything that decides the result."""
        names = ("protocol", "dataset", "method", "seed")
        return {name: getattr(self, name) for name in names} | {
            "settings": dict(self.settings),
            "configuration": dict(self.configuration),
        }

    @property
    def id(self) -> str:
        """The digest of `what`."""
        return cell_id(self.what)

    def __str__(self) -> str:
        return f"{self.dataset}, {self.method}, seed {self.seed}"


@dataclass(frozen=True)
class Measured:
    """One figure of a cell: the metric on one test set after one round."""

    round: int
    test: str
    value: float
    num_samples: int
    bytes: int = 0
    final: bool = False


@dataclass
class Outcome:
    """What came of a cell."""

    metric: str
    figures: list[Measured] = field(default_factory=list)
    status: Status = "done"
    detail: str = ""
    round: int = 0
    training_seconds: float = 0.0


class Diverged(Exception):
    """Training or its model is not finite any more; what was measured until then."""

    def __init__(self, round_index: int, why: str, figures: list[Measured]) -> None:
        super().__init__(why)
        self.round, self.figures = round_index, figures


def with_mean(figures: Sequence[Measured]) -> list[Measured]:
    """The figures of one model on all centers and pooled, and their mean over the centers: the pooled one apart."""
    centers = [f for f in figures if f.test != POOLED]
    mean = math.fsum(f.value for f in centers) / len(centers)
    samples = sum(f.num_samples for f in centers)
    first = centers[0]
    return [*figures, Measured(first.round, MEAN, mean, samples, first.bytes, first.final)]


def run_cell(cell: Cell) -> list[ResultRow]:
    """Runs a cell. What goes wrong is a row too, with the status "diverged" or "failed"."""
    from polyclinic.benchmark.clients import metric_of
    from polyclinic.benchmark.protocols import PROTOCOLS
    from polyclinic.datasets.federated_dataset import FederatedDataset

    reset_peak_memory()
    began = time.perf_counter()
    outcome = Outcome(metric="")
    try:
        outcome = PROTOCOLS[cell.protocol].run(cell)
    except Diverged as err:
        detail = " ".join(str(err).split())
        metric = metric_of(FederatedDataset.load(cell.dataset)).name
        outcome = Outcome(metric, list(err.figures), status="diverged", detail=detail, round=err.round)
    except PolyclinicError as err:
        outcome.status, outcome.detail = "failed", " ".join(f"{err.what}. {err.to_do}".split())
    if outcome.status == "done" and any(math.isnan(f.value) for f in outcome.figures if f.test == POOLED and f.final):
        outcome.status, outcome.detail = "diverged", "the metric is not defined for what the model predicts"
    figures = outcome.figures
    if outcome.status != "done":
        figures = [*(f for f in figures if not f.final), Measured(outcome.round, "", math.nan, 0, final=True)]
    shared: dict[str, Any] = {
        "protocol": cell.protocol,
        "dataset": cell.dataset,
        "method": cell.method,
        "settings": json.dumps(dict(cell.settings), sort_keys=True),
        "seed": cell.seed,
        "metric": outcome.metric,
        "status": outcome.status,
        "detail": outcome.detail,
        "seconds": round(time.perf_counter() - began, 4),
        "peak_memory": peak_memory(),
        "training_seconds": round(outcome.training_seconds, 4),
        "configuration": json.dumps(dict(cell.configuration), sort_keys=True),
        "versions": json.dumps(versions(), sort_keys=True),
        "cell": cell.id,
        "rows": len(figures),
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
    }
    return [ResultRow(**shared, **vars(figure)) for figure in figures]
