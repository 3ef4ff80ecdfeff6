"""FedExP: federated averaging that goes farther than the mean where the nodes disagree.

With the nodes' steps s_k = w_k − w, their weights p_k = n_k / sum n, and the mean step D = sum_k p_k s_k:
    eta  =  max(1, sum_k p_k ||s_k||² / (2 (||D||² + epsilon))),    w  <-  w + eta D
The more the nodes' steps differ, the shorter D is for their length, and the farther the model goes; eta = 1 is
`FedAverage`.

Jhunjhunwala, Wang and Joshi, FedExP: Speeding Up Federated Averaging via Extrapolation, ICLR 2023, arXiv:2301.09604,
Algorithm 1. Differs: the last model is the result, not the mean of the last two; BatchNorm statistics and counters take
the plain mean and count for no length.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from polyclinic.aggregators.aggregator import Aggregator, State
from polyclinic.aggregators.mean_step import MeanStep, squared_length
from polyclinic.aggregators.settings import Weights, checked_weights, number, weight_of
from polyclinic.messages.replies import TrainReply


class FedExP(Aggregator):
    """Averages the nodes' models and extrapolates.

    Args:
        epsilon: above 0; keeps eta small where the steps are short: against noise near the end of training. The paper
            tried 0.001 to 0.1.
        weights: as in `FedAverage`.

    Raises:
        ConfigError: for an epsilon that is not above 0 or not finite.
    """

    def __init__(self, *, epsilon: float = 1e-3, weights: Weights = "num_samples") -> None:
        self.epsilon = number(self, "epsilon", epsilon, above=0, example=1e-3)
        self.weights = checked_weights(weights)
        self._steps: MeanStep | None = None
        self._squared_lengths = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon, "weights": self.weights}

    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        self._steps = MeanStep(state, self.buffers)
        self._squared_lengths = 0.0

    def add(self, update: TrainReply) -> None:
        assert self._steps is not None, "begin() comes first"
        weight = weight_of(update, self.weights)
        self._squared_lengths += weight * self._steps.add(update, weight)

    def finish(self) -> State:
        assert self._steps is not None, "begin() comes first"
        steps, self._steps = self._steps, None
        mean, others = steps.finish()
        longer = self._squared_lengths / steps.weight / (2 * (squared_length(mean) + self.epsilon))
        return steps.moved(((name, max(1.0, longer) * mean.pop(name)) for name in [*mean]), others)
