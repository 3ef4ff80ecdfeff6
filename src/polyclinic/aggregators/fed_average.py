"""Federated averaging.

The next global model is the mean of the nodes' models, weighted by their numbers of training samples n_k:
    w  <-  sum_k n_k w_k / sum_k n_k
or with equal weights.

McMahan et al., Communication-Efficient Learning of Deep Networks from Decentralized Data, AISTATS 2017,
arXiv:1602.05629. Differs: all nodes take part in every round; BatchNorm statistics are averaged like parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from polyclinic.aggregators.aggregator import Aggregator, State
from polyclinic.aggregators.settings import Weights, checked_weights, weight_of
from polyclinic.aggregators.weighted_mean import WeightedMean
from polyclinic.messages.replies import TrainReply


class FedAverage(Aggregator):
    """Averages the nodes' models.

    Args:
        weights: ``"num_samples"`` (each node counts by its training samples) or ``"uniform"`` (each node counts alike).

    Raises:
        ConfigError: for other weights.
    """

    def __init__(self, *, weights: Weights = "num_samples") -> None:
        self.weights = checked_weights(weights)
        self._mean: WeightedMean | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        self._mean = WeightedMean(state)

    def add(self, update: TrainReply) -> None:
        assert self._mean is not None, "begin() comes first"
        self._mean.add(update.node_id, update.tensors, weight_of(update, self.weights))

    def finish(self) -> State:
        assert self._mean is not None, "begin() comes first"
        mean, self._mean = self._mean, None
        return mean.finish()
