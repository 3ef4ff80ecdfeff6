"""A dataset's centers as the clients of a benchmark: their data, nodes over them, and models judged on their tests."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import Diverged
from polyclinic.federation.simulation import in_memory
from polyclinic.federation.stacked import StackedFederation
from polyclinic.metrics import CustomMetric, Metric, Rows, join_rows
from polyclinic.node.batches import load_batches
from polyclinic.node.local_evaluation import to_numpy
from polyclinic.node.local_training import as_arguments
from polyclinic.node.node import Node
from polyclinic.node.registry import ListRegistry
from polyclinic.node.streams import Streams
from polyclinic.node.workbenches import Workbenches
from polyclinic.plans.torch_plan import TorchTrainingPlan
from polyclinic.randomness import derive, seeded

TAG = "benchmark"

Part = Dataset[Any]
Predict = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Score:
    """A metric on one test set; NaN where it is not defined there."""

    value: float
    num_samples: int


def metric_of(dataset: FederatedDataset) -> Metric:
    """What a dataset's models are judged by."""
    return dataset.mergeable_metric or CustomMetric("metric", dataset.metric)


class Clients:
    """The centers of a dataset.

    Args:
        name: of the dataset.
        data_path: raw or prepared data; None for datasets that bring their own.
        options: for the dataset's class, as ``{"flamby_compatible": True}``.

    Raises:
        DatasetError: the data cannot be read.
    """

    def __init__(self, name: str, data_path: Path | None = None, options: Mapping[str, Any] | None = None) -> None:
        self.dataset = FederatedDataset.load(name)
        self._options = dict(options or {})
        self._path = self.dataset.ensure_prepared(data_path, **self._options)
        self.names = self.dataset.centers_at(self._path)
        self._parts: dict[tuple[int, bool, bool], Part] = {}
        with seeded(0):  # the caller's generators stay as they are
            model = self.dataset.baseline()
        self.num_parameters = sum(parameter.numel() for parameter in model.parameters())
        self.has_buffers = any(True for _ in model.buffers())
        self.metric = metric_of(self.dataset)

    def part(self, center: int, *, train: bool) -> Part:
        """A center's training or test data, read when first asked for."""
        return self._build(center=center, train=train)

    def pooled(self, *, train: bool) -> Part:
        """What the dataset itself calls pooled; its features may be scaled otherwise than the centers' are."""
        return self._build(pooled=True, train=train)

    def _build(self, *, train: bool, center: int = 0, pooled: bool = False) -> Part:
        key = (center, train, pooled)
        if key not in self._parts:
            self._parts[key] = self.dataset.build(
                center, train=train, data_path=self._path, pooled=pooled, **self._options
            )
        return self._parts[key]

    def federation(
        self, parts: Mapping[str, tuple[Part, Part | None]], streams: Streams | None = None
    ) -> StackedFederation:
        """Nodes in this process, one for each pair of a training and a test part, in the order given."""
        workbenches = Workbenches()
        nodes = [
            Node(
                f"client-{number:04}",
                name,
                ListRegistry([in_memory(name, part, (TAG,), self.dataset.module)]),
                workbenches=workbenches,
                streams=streams,
            )
            for number, (name, part) in enumerate(parts.items())
        ]
        return StackedFederation(nodes)

    def rows(self, plan: TorchTrainingPlan, data: Part, *, seed: int, batch_size: int | None = None) -> Rows:
        """What the metric needs of the model's predictions for all of the data, in their order.

        Raises:
            Diverged: a prediction is not finite.
        """
        found: list[Rows] = []
        plan.eval()
        with seeded(derive(seed, "test")), torch.inference_mode():
            for batch in self.batches(data, batch_size or self.dataset.batch_size):
                *inputs, target = as_arguments(batch)
                predicted = to_numpy(plan.predict(*inputs))
                if not np.isfinite(predicted).all():
                    raise Diverged("the model predicts what is no finite number", to_do="lower lr")
                found.append(self.metric.rows(to_numpy(target), predicted))
        return join_rows(found)

    def loss(self, plan: TorchTrainingPlan, data: Part, *, seed: int) -> tuple[float, int]:
        """The mean of the plan's loss over the data, and their number."""
        plan.eval()
        total, count = 0.0, 0
        with seeded(derive(seed, "test")), torch.inference_mode():
            for batch in self.batches(data, self.dataset.batch_size):
                arguments = as_arguments(batch)
                size = len(arguments[-1])
                total += float(plan.testing_step(*arguments)) * size
                count += size
        return total / count if count else math.nan, count

    def batches(self, data: Part, batch_size: int) -> Any:
        """The data in their order; tables at once, since that changes no prediction and saves a thousand calls."""
        count = len(data)  # type: ignore[arg-type]
        if getattr(data, "tensors", None) is not None:
            batch_size = max(batch_size, count)
        order = [torch.arange(count)] if count else []
        collate = self.dataset.collate_fn
        return load_batches(data, order, batch_size=batch_size, collate_fn=collate, num_workers=0, seed=0)

    def score(self, rows: Sequence[Rows]) -> Score:
        """The metric over the rows of one or several test sets together."""
        together = join_rows(list(rows))
        return Score(self.metric.value(together), len(next(iter(together.values()), ())))


def loader(data: Part, batch_size: int, collate_fn: Callable[..., Any] | None) -> DataLoader[Any]:
    """Batches of the data in their order, for functions that expect torch's own class."""
    return DataLoader(data, batch_size=batch_size, collate_fn=collate_fn)


def rows_of(data: Part, rows: Sequence[int]) -> Part:
    """Some samples of a dataset; of a table in memory, a table."""
    tensors: tuple[torch.Tensor, ...] | None = getattr(data, "tensors", None)
    if tensors is not None:
        return TensorDataset(*(t[list(rows)] for t in tensors))
    return Subset(data, list(rows))


def joined(parts: Sequence[Part]) -> Part:
    """Several datasets one after the other; of tables in memory, a table."""
    tables = [getattr(part, "tensors", None) for part in parts]
    if all(table is not None for table in tables):
        return TensorDataset(*(torch.cat(columns) for columns in zip(*tables, strict=True)))
    return ConcatDataset(parts)


@lru_cache(maxsize=2)
def clients_of(name: str, data_path: Path | None, options: str = "{}") -> Clients:
    """The clients of a dataset, read once for all cells that a process runs.

    Args:
        options: JSON.
    """
    return Clients(name, data_path, json.loads(options))
