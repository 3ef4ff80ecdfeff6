"""The geometric median of the nodes' models (RFA).

The next model is the point whose distances to the nodes' models, weighted by a_k, have the smallest sum:
    w  =  argmin over z of  sum_k a_k ||z − w_k||
A hostile node's pull does not grow with its distance; less than half of the weight cannot carry w away. It is found by
the smoothed Weiszfeld algorithm, from the median of each value:
    b_k  =  a_k / max(smoothing, ||z − w_k||),    z  <-  sum_k b_k w_k / sum_k b_k
until no b_k / sum b moves by more than ``tolerance``. Distances are over the parameters, and a model with a parameter
that is not finite takes no part. BatchNorm statistics and counters count for no distance, so a hostile node could send
wild ones with a usual model: they take the median over all nodes instead.

Pillutla, Kakade and Harchaoui, Robust Aggregation for Federated Learning, IEEE Transactions on Signal Processing 2022,
arXiv:1912.13445, Algorithm 2. Differs: nodes count alike by default, because a hostile one may lie about its samples;
the updates are known here, not summed in secret, so there are as many passes as are needed instead of three.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch

from polyclinic.aggregators.aggregator import Aggregator, State
from polyclinic.aggregators.kept_updates import KeptUpdates, median
from polyclinic.aggregators.settings import Weights, checked_weights, number, whole
from polyclinic.errors import AggregationError
from polyclinic.messages.replies import TrainReply


class GeometricMedian(Aggregator):
    """Takes the geometric median of the nodes' models; keeps all updates of a round in memory.

    Args:
        weights: ``"uniform"`` (each node counts alike) or ``"num_samples"`` (by its training samples, as it says).
        smoothing: above 0; distances below it count as it, so that no model divides by 0.
        tolerance: above 0; when to stop.
        max_iterations: passes over the updates, at least 1.

    Raises:
        ConfigError: for a setting that is out of range or not finite.
    """

    def __init__(
        self,
        *,
        weights: Weights = "uniform",
        smoothing: float = 1e-6,
        tolerance: float = 1e-8,
        max_iterations: int = 100,
    ) -> None:
        self.weights = checked_weights(weights)
        self.smoothing = number(self, "smoothing", smoothing, above=0, example=1e-6)
        self.tolerance = number(self, "tolerance", tolerance, above=0, example=1e-8)
        self.max_iterations = whole(self, "max_iterations", max_iterations, at_least=1, example=100)
        self._updates: KeptUpdates | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "smoothing": self.smoothing,
            "tolerance": self.tolerance,
            "max_iterations": self.max_iterations,
        }

    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        self._updates = KeptUpdates(state)

    def add(self, update: TrainReply) -> None:
        assert self._updates is not None, "begin() comes first"
        self._updates.add(update)

    def finish(self) -> State:
        """As `Aggregator.finish`.

        Raises:
            AggregationError: also if no node sent parameters that are all finite.
        """
        assert self._updates is not None, "begin() comes first"
        updates, self._updates = self._updates, None
        parameters = {name for name, t in updates.begin.items() if t.is_floating_point() and name not in self.buffers}
        new = updates.combined(median, updates.begin.keys() - parameters)
        finite = _finite(updates, parameters)
        new |= finite.combined(self._mean(finite, parameters), parameters)
        return {name: new[name] for name in updates.begin}

    def _mean(self, updates: KeptUpdates, names: Collection[str]) -> Callable[[torch.Tensor], torch.Tensor]:
        """The mean whose weights b_k / sum b make the geometric median."""
        counts = torch.ones(len(updates)) if self.weights == "uniform" else torch.tensor(updates.num_samples)
        shares = weights = counts.double()
        point: Callable[[torch.Tensor], torch.Tensor] = median
        for _ in range(self.max_iterations):
            pull = weights / _distances(updates, names, point).clamp(min=self.smoothing)
            last, shares = shares, pull / pull.sum()
            point = _mean_by(shares)
            if (shares - last).abs().max() <= self.tolerance:
                break
        return point


def _mean_by(shares: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda values: (shares[:, None] * values).sum(dim=0)


def _distances(
    updates: KeptUpdates, names: Collection[str], point: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """||z − w_k|| for each update, z being made by ``point`` of their values."""
    squared = torch.zeros(len(updates), dtype=torch.float64)
    for values in updates.columns(names):
        squared += (values - point(values)).square().sum(dim=1)
    return squared.sqrt()


def _finite(updates: KeptUpdates, names: Collection[str]) -> KeptUpdates:
    finite = torch.ones(len(updates), dtype=torch.bool)
    for values in updates.columns(names):
        finite &= values.isfinite().all(dim=1)
    if not finite.any():
        raise AggregationError("no node sent finite parameters", to_do="lower the nodes' learning rate")
    return updates.only(place for place, sound in enumerate(finite.tolist()) if sound)
