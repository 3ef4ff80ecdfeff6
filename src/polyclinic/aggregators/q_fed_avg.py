"""q-FedAvg: averaging that gives nodes with a large loss more weight, so that all end up about alike.

With node k's loss F_k, its step turned to a gradient, g_k = L (w − w_k), and q >= 0:
    h_k  =  q F_k^(q−1) ||g_k||² + L F_k^q,    w  <-  w − sum_k F_k^q g_k / sum_k h_k
q = 0 is the mean with equal weights (tested); the larger q, the more the worst node counts.

Li et al., Fair Resource Allocation in Federated Learning, ICLR 2020, arXiv:1905.10497, Algorithm 2.
Differs: F_k is the mean training loss of the node's round, not the loss of the model it began with, which would take a
pass over the data more. All nodes take part. 1e-10 is added to each F_k, so that a loss of 0 is allowed. BatchNorm
statistics and counters take the mean weighted by samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from polyclinic.aggregators.aggregator import Aggregator, State
from polyclinic.aggregators.mean_step import MeanStep
from polyclinic.aggregators.settings import number
from polyclinic.errors import AggregationError
from polyclinic.messages.replies import TrainReply

_SMALL = 1e-10
# Beyond, sums of powers times squared lengths may overflow.
_LARGE = 1e100


class QFedAvg(Aggregator):
    """Averages the nodes' models with weights that grow with their losses.

    The loss must not be negative. It counts as it is: a loss that is twice as large everywhere changes the result.

    Args:
        q: at least 0. Try 0.1, 1 and 5.
        lipschitz: L, above 0: 1 / the nodes' learning rate.

    Raises:
        ConfigError: for a setting that is out of range or not finite.
    """

    def __init__(self, q: float, lipschitz: float) -> None:
        self.q = number(self, "q", q, at_least=0, example=1)
        self.lipschitz = number(self, "lipschitz", lipschitz, above=0, example=100)
        self._steps: MeanStep | None = None
        self._denominator = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        return {"q": self.q, "lipschitz": self.lipschitz}

    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        self._steps = MeanStep(state, self.buffers)
        self._denominator = 0.0

    def add(self, update: TrainReply) -> None:
        """As `Aggregator.add`.

        Raises:
            AggregationError: also for a loss that is negative or not finite, or whose power is 0 or infinite.
        """
        assert self._steps is not None, "begin() comes first"
        weight, slope = self._powers(update)
        squared_length = self._steps.add(update, weight, plain=update.num_samples)
        self._denominator += slope * self.lipschitz**2 * squared_length + self.lipschitz * weight

    def finish(self) -> State:
        assert self._steps is not None, "begin() comes first"
        steps, self._steps = self._steps, None
        mean, others = steps.finish()
        factor = self.lipschitz * steps.weight / self._denominator
        return steps.moved(((name, factor * mean.pop(name)) for name in [*mean]), others)

    def _powers(self, update: TrainReply) -> tuple[float, float]:
        """F^q and q F^(q−1)."""
        loss = update.loss + _SMALL
        if not (math.isfinite(update.loss) and update.loss >= 0):
            raise AggregationError(
                f"QFedAvg cannot weigh node {update.node_id} by its training loss {update.loss:g}",
                to_do="take a loss that is never negative, or another aggregator",
            )
        try:
            weight, slope = loss**self.q, self.q * loss ** (self.q - 1)
        except OverflowError:
            weight = slope = math.inf
        if not (1 / _LARGE < weight < _LARGE and slope < _LARGE):
            raise AggregationError(
                f"node {update.node_id}: the training loss {update.loss:g} to the power of {self.q:g} is out of range",
                to_do="take a smaller q",
            )
        return weight, slope
