"""FedAvgM: federated averaging with momentum at the server.

The nodes' mean step D = sum_k p_k (w_k − w), p_k = n_k / sum n, feeds a velocity that lasts from round to round:
    v  <-  beta v + D,    w  <-  w + server_lr · v
beta = 0 with server_lr = 1 is `FedAverage` (tested).

Hsu, Qi and Brown, Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification, 2019,
arXiv:1909.06335. Differs: with a server_lr; BatchNorm statistics and counters take the plain mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from polyclinic.aggregators.aggregator import Aggregator, State
from polyclinic.aggregators.mean_step import MeanStep
from polyclinic.aggregators.settings import Weights, checked_weights, number, weight_of
from polyclinic.messages.replies import TrainReply


class FedAvgM(Aggregator):
    """Averages the nodes' models and goes on in the direction of the last rounds.

    The velocity is kept in the parameters' dtypes, but at least in float32.

    Args:
        beta: how much of the velocity stays from round to round, at least 0 and below 1. A steady step ends up
            1 / (1 − beta) times as long, so lower the nodes' learning rate or ``server_lr`` with a large beta.
        server_lr: above 0.
        weights: as in `FedAverage`.

    Raises:
        ConfigError: for a setting that is out of range or not finite.
    """

    def __init__(self, *, beta: float = 0.9, server_lr: float = 1.0, weights: Weights = "num_samples") -> None:
        self.beta = number(self, "beta", beta, at_least=0, below=1, example=0.9)
        self.server_lr = number(self, "server_lr", server_lr, above=0, example=1)
        self.weights = checked_weights(weights)
        self._velocity: State = {}
        self._steps: MeanStep | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {"beta": self.beta, "server_lr": self.server_lr, "weights": self.weights}

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
        last = self._velocity.get(name)
        velocity = mean if last is None else self.beta * last.double() + mean
        self._velocity[name] = velocity.to(kept_in)
        return self.server_lr * velocity

    def state_dict(self) -> State:
        return dict(self._velocity)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._velocity = dict(state)
