"""The FedOpt family: adaptive optimizers at the server.

The nodes' mean step D = sum_k p_k (w_k − w), p_k = n_k / sum n, is taken for a gradient (with the sign turned):
    m  <-  beta1 m + (1 − beta1) D
    v  <-  the second moment, in which the members differ
    w  <-  w + server_lr · m / (sqrt(v) + tau)
m and v begin at 0, and there is no bias correction.

Reddi et al., Adaptive Federated Optimization, ICLR 2021, arXiv:2003.00295, Algorithm 2.
Differs: v begins at 0, not at tau²; nodes may use any optimizer; BatchNorm statistics and counters take the plain mean.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from polyclinic.aggregators.aggregator import Aggregator, State
from polyclinic.aggregators.mean_step import MeanStep
from polyclinic.aggregators.settings import Weights, checked_weights, number, weight_of
from polyclinic.messages.replies import TrainReply


class FedOpt(Aggregator):
    """What the members of the family share.

    m and v are kept in the parameters' dtypes, but at least in float32: the square of a small step is 0 in float16.

    Args:
        server_lr: about how far a parameter moves in a round, above 0.
        beta1: how much of m stays from round to round, at least 0 and below 1.
        beta2: how much of v stays from round to round, at least 0 and below 1.
        tau: above 0; the smaller, the more alike all parameters move, whatever the size of their steps.
        weights: as in `FedAverage`.

    Raises:
        ConfigError: for a setting that is out of range or not finite.
    """

    def __init__(
        self,
        *,
        server_lr: float = 1e-2,
        beta1: float = 0.9,
        beta2: float = 0.999,
        tau: float = 1e-3,
        weights: Weights = "num_samples",
    ) -> None:
        self.server_lr = number(self, "server_lr", server_lr, above=0, example=1e-2)
        self.beta1 = number(self, "beta1", beta1, at_least=0, below=1, example=0.9)
        self.beta2 = number(self, "beta2", beta2, at_least=0, below=1, example=0.999)
        self.tau = number(self, "tau", tau, above=0, example=1e-3)
        self.weights = checked_weights(weights)
        self._moments: State = {}
        self._steps: MeanStep | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {
            "server_lr": self.server_lr,
            "beta1": self.beta1,
            "beta2": self.beta2,
            "tau": self.tau,
            "weights": self.weights,
        }

    @abstractmethod
    def second_moment(self, v: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
        """The next v, of the last one and D², in float64."""

    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        self._steps = MeanStep(state, self.buffers)

    def add(self, update: TrainReply) -> None:
        assert self._steps is not None, "begin() comes first"
        self._steps.add(update, weight_of(update, self.weights))

    def finish(self) -> State:
        assert self._steps is not None, "begin() comes first"
        steps, self._steps = self._steps, None
        mean, others = steps.finish()
        dtypes = {name: torch.promote_types(steps.begin[name].dtype, torch.float32) for name in mean}
        return steps.moved(((name, self._step(name, mean.pop(name), dtypes[name])) for name in dtypes), others)

    def _step(self, name: str, mean: torch.Tensor, kept_in: torch.dtype) -> torch.Tensor:
        none_yet = torch.zeros_like(mean)
        m = self.beta1 * self._moments.get(f"m/{name}", none_yet).double() + (1 - self.beta1) * mean
        v = self.second_moment(self._moments.get(f"v/{name}", none_yet).double(), mean.square())
        self._moments |= {f"m/{name}": m.to(kept_in), f"v/{name}": v.to(kept_in)}
        return self.server_lr * m / (v.sqrt() + self.tau)

    def state_dict(self) -> State:
        return dict(self._moments)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._moments = dict(state)
