"""FedNova: federated averaging for nodes that take different numbers of local steps.

A node's step s_k = w_k − w is divided by the weight of the gradients in it, |a_k|, before the mean, so that a node that
took more steps does not draw the model to its own optimum:
    w  <-  w + (sum_k p_k |a_k|) · sum_k p_k s_k / |a_k|,    p_k = n_k / sum n
For plain SGD |a_k| is the number of local steps t_k. For SGD with momentum rho it is
    |a_k|  =  (t_k − rho (1 − rho^t_k) / (1 − rho)) / (1 − rho)
With equal t_k it is `FedAverage` (tested).

Wang et al., Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization, NeurIPS 2020,
arXiv:2007.07481, equations 8 and 9. Differs: no momentum at the server, no proximal term; BatchNorm statistics and
counters take the plain mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from polyclinic.aggregators.aggregator import Aggregator, State
from polyclinic.aggregators.mean_step import MeanStep
from polyclinic.aggregators.settings import Weights, checked_weights, number, weight_of
from polyclinic.messages.replies import TrainReply


class FedNova(Aggregator):
    """Averages the nodes' models as if each had taken the same number of steps.

    Args:
        momentum: that of the nodes' SGD, at least 0 and below 1. It must begin at 0 in each round, as it does with
            ``optimizer_state="fresh"``. With another optimizer than SGD the rule is only a likely approximation.
        weights: as in `FedAverage`.

    Raises:
        ConfigError: for a momentum that is out of range or not finite.
    """

    def __init__(self, *, momentum: float = 0.0, weights: Weights = "num_samples") -> None:
        self.momentum = number(self, "momentum", momentum, at_least=0, below=1, example=0.9)
        self.weights = checked_weights(weights)
        self._steps: MeanStep | None = None
        self._samples = self._gradients = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        return {"momentum": self.momentum, "weights": self.weights}

    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        self._steps = MeanStep(state, self.buffers)
        self._samples = self._gradients = 0.0

    def add(self, update: TrainReply) -> None:
        assert self._steps is not None, "begin() comes first"
        samples, gradients = weight_of(update, self.weights), self._gradients_in(update.num_updates)
        self._steps.add(update, samples / gradients, plain=samples)
        self._samples += samples
        self._gradients += samples * gradients

    def finish(self) -> State:
        assert self._steps is not None, "begin() comes first"
        steps, self._steps = self._steps, None
        mean, others = steps.finish()
        # The mean is over sum_k n_k / |a_k|; the formula divides by sum n, twice.
        factor = self._gradients * steps.weight / self._samples**2
        return steps.moved(((name, factor * mean.pop(name)) for name in [*mean]), others)

    def _gradients_in(self, num_updates: int) -> float:
        rho = self.momentum
        return (num_updates - rho * (1 - rho**num_updates) / (1 - rho)) / (1 - rho)
