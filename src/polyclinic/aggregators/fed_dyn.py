"""FedDyn: each node's loss is tilted so that the nodes' optima meet in the pooled one.

With node k's gradient l_k and the server's h, at first 0, a node trains
    theta_k  ~  argmin  F_k(theta) - <l_k, theta> + (alpha / 2) ||theta - w||²
so each step's gradient gains  alpha (theta - w) - l_k.  After the round
    l_k  <-  l_k - alpha (theta_k - w)                                     at the node
    h    <-  h - alpha sum_k p_k (theta_k - w) = sum_k p_k l_k              at the server
    w    <-  sum_k p_k theta_k - h / alpha
Where nothing moves any more, l_k is the gradient of F_k at w, and their mean h is 0: the pooled optimum.

Acar et al., Federated Learning Based on Dynamic Regularization, ICLR 2021, arXiv:2111.04263, algorithm 1.
Differs: p_k as in `FedAverage`, over all nodes that ever answered, and in the mean over those of the round; the local
problem is trained for the round's steps, not solved; BatchNorm statistics take the plain mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from polyclinic.aggregators.aggregator import Aggregator, LocalRound, LocalRuleStep, State
from polyclinic.aggregators.mean_step import MeanStep
from polyclinic.aggregators.settings import Weights, checked_weights, number, require_numbers, weight_of
from polyclinic.messages.replies import TrainReply
from polyclinic.messages.requests import LocalRule

_SUM, _WEIGHT = "sum/", "weight/"


class FedDyn(Aggregator):
    """Averages models trained with tilted losses, and moves on by what the nodes' gradients have in common.

    Any optimizer will do at the nodes, and nodes may miss rounds. But if a node loses what it kept, or has trained and
    its answer comes too late, its l_k is not the one that h was made of, and the limit is off by the difference.

    Args:
        alpha: how firmly a node is held near the global model, above 0. Try 0.01, 0.1 and 1.
        weights: as in `FedAverage`.

    Raises:
        ConfigError: for an alpha that is not above 0.
    """

    def __init__(self, alpha: float, *, weights: Weights = "num_samples") -> None:
        self.alpha = number(self, "alpha", alpha, above=0, example=0.1)
        self.weights = checked_weights(weights)
        # sum_k n_k l_k by parameter, and n_k of all nodes that ever answered: h is the one over the sum of the other.
        self._sums: State = {}
        self._known: dict[str, int] = {}
        self._answered: dict[str, int] = {}
        self._steps: MeanStep | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {"alpha": self.alpha, "weights": self.weights}

    @property
    def local_rule(self) -> LocalRule:
        return LocalRule(name=TiltedLoss.name, numbers={"alpha": self.alpha})

    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        self._steps, self._answered = MeanStep(state, self.buffers), {}

    def add(self, update: TrainReply) -> None:
        assert self._steps is not None, "begin() comes first"
        weight = weight_of(update, self.weights)
        self._steps.add(update, weight)
        self._answered[update.node_id] = weight

    def finish(self) -> State:
        assert self._steps is not None, "begin() comes first"
        steps, self._steps = self._steps, None
        mean, others = steps.finish()
        self._known = self._known | self._answered
        total = sum(self._known.values())
        tilt = {name: self.alpha * steps.weight * step for name, step in mean.items()}
        self._sums = {name: self._sums[name] - t if self._sums else -t for name, t in tilt.items()}
        moves = {name: step - self._sums[name] / (self.alpha * total) for name, step in mean.items()}
        return steps.moved(moves.items(), others)

    def state_dict(self) -> State:
        sums = {_SUM + name: t for name, t in self._sums.items()}
        return sums | {_WEIGHT + node_id: torch.tensor(n) for node_id, n in self._known.items()}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._sums = {name.removeprefix(_SUM): t for name, t in state.items() if name.startswith(_SUM)}
        self._known = {n.removeprefix(_WEIGHT): int(t) for n, t in state.items() if n.startswith(_WEIGHT)}


class TiltedLoss(LocalRuleStep):
    """Adds alpha (theta - w) - l_k to each gradient; keeps l_k from round to round."""

    name: ClassVar[str] = "fed_dyn"
    keeps: ClassVar[bool] = True

    def __init__(self, numbers: Mapping[str, float]) -> None:
        require_numbers(self.name, numbers, ("alpha",))
        self._alpha = number("FedDyn", "alpha", numbers["alpha"], above=0, example=0.1)
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._start: dict[str, torch.Tensor] = {}
        self._gradients: dict[str, torch.Tensor] = {}

    def begin(self, local: LocalRound) -> None:
        self._parameters = local.shared
        self._start = {name: local.start(name) for name in self._parameters}
        for name, start in self._start.items():
            kept = local.kept.get(name)
            self._gradients[name] = torch.zeros_like(start) if kept is None else kept.to(start.device)

    def adjust_gradients(self) -> None:
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - self._start[name], alpha=self._alpha).sub_(self._gradients[name])

    def kept(self) -> State:
        moved = {name: parameter.detach() - self._start[name] for name, parameter in self._parameters.items()}
        return {name: self._gradients[name] - self._alpha * move for name, move in moved.items()}
