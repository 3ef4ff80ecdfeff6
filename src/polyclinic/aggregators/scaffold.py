"""Scaffold: steps are corrected for what makes a node's gradient differ from the mean.

With node k's correction c_k, at first 0, a node takes steps  theta <- theta - lr (grad F_k(theta) - c_k)  from w, and
    w'   =  w + server_lr · sum_k p_k (theta_k - w),    u_k = w + server_lr (theta_k - w)
    c_k  <- c_k + (w' - u_k) / (server_lr · lr · T)     at the beginning of its next round
with T steps in the round and p_k as in `FedAverage`. As w' and u_k are at the node, nothing but the model travels. The
sum of p_k c_k is 0, so that where nothing moves any more, the mean of the gradients is 0: the pooled optimum.

Karimireddy et al., SCAFFOLD: Stochastic Controlled Averaging for Federated Learning, ICML 2020, arXiv:1910.06378,
option II with all nodes in each round, where c_k is the paper's c_i - c. Differs: nodes are weighted; where nodes take
unequal numbers of steps, T is the largest of them at every node, which keeps that sum at 0. When a node misses a round
the sum would not be 0 any more, so whenever a round has not the nodes of the round before, every node forgets its older
corrections, and the sum is 0 again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from polyclinic.aggregators.aggregator import LocalRound, LocalRuleStep, State
from polyclinic.aggregators.fed_average import FedAverage
from polyclinic.aggregators.settings import Weights, number, require_numbers, whole
from polyclinic.errors import ConfigError
from polyclinic.messages.replies import TrainReply
from polyclinic.messages.requests import LocalRule

_STEPS = "num_updates/"


class Scaffold(FedAverage):
    """Averages models that were trained with corrected gradients. The plan needs plain `torch.optim.SGD`.

    Weight decay counts as part of the loss. Gradients are clipped (``clip_norm``) after they were corrected.

    Args:
        server_lr: how far the global model goes towards the mean; 1: to the mean.
        weights: as in `FedAverage`.

    Raises:
        ConfigError: for a server_lr that is not above 0.
    """

    def __init__(self, *, server_lr: float = 1.0, weights: Weights = "num_samples") -> None:
        super().__init__(weights=weights)
        self.server_lr = number(self, "server_lr", server_lr, above=0, example=1.0)
        self._start: Mapping[str, torch.Tensor] = {}
        # Steps that each node took: in the round that is going on, and in the last complete one.
        self._steps: dict[str, int] = {}
        self._last_steps: dict[str, int] = {}
        self._forget = False

    @property
    def settings(self) -> dict[str, Any]:
        return {"server_lr": self.server_lr, **super().settings}

    @property
    def local_rule(self) -> LocalRule:
        steps = max(self._last_steps.values(), default=0)
        numbers = {"server_lr": self.server_lr, "num_updates": float(steps), "forget": float(self._forget)}
        return LocalRule(name=Correction.name, numbers=numbers)

    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        super().begin(state)
        self._start, self._steps = state, {}

    def add(self, update: TrainReply) -> None:
        super().add(update)
        self._steps[update.node_id] = update.num_updates

    def finish(self) -> State:
        mean = super().finish()
        # A node that comes back may have trained in the round that it missed for us, and trust what it kept of it.
        self._forget = bool(self._last_steps) and self._last_steps.keys() != self._steps.keys()
        self._last_steps = self._steps
        start, self._start = self._start, {}
        if self.server_lr == 1:
            return mean
        return {name: t if name in self.buffers else self._beyond(start[name], t) for name, t in mean.items()}

    def _beyond(self, start: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        if not mean.is_floating_point():
            return mean
        return torch.lerp(start.double(), mean.double(), self.server_lr).to(mean.dtype)

    def state_dict(self) -> State:
        steps = {_STEPS + node_id: torch.tensor(steps) for node_id, steps in self._last_steps.items()}
        return steps | {"forget": torch.tensor(self._forget)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self._last_steps = {n.removeprefix(_STEPS): int(t) for n, t in state.items() if n.startswith(_STEPS)}
        self._forget = bool(state["forget"])


class Correction(LocalRuleStep):
    """Takes the node's correction off each gradient; keeps it, and u_k, from round to round.

    ``num_updates`` is T of the round before, ``forget`` (0 or 1) whether older corrections are void.
    """

    name: ClassVar[str] = "scaffold"
    keeps: ClassVar[bool] = True

    def __init__(self, numbers: Mapping[str, float]) -> None:
        require_numbers(self.name, numbers, ("server_lr", "num_updates", "forget"))
        self._server_lr = number("Scaffold", "server_lr", numbers["server_lr"], above=0, example=1.0)
        self._last_steps = whole("Scaffold", "num_updates", numbers["num_updates"], at_least=0, example=100)
        self._forget = bool(numbers["forget"])
        self._lr = 0.0
        self._parameters: dict[str, torch.nn.Parameter] = {}
        self._start: dict[str, torch.Tensor] = {}
        self._corrections: dict[str, torch.Tensor] = {}

    def begin(self, local: LocalRound) -> None:
        self._lr = _learning_rate(local.optimizer)
        self._parameters = local.shared
        self._start = {name: local.start(name) for name in self._parameters}
        # What was kept before a round that the node missed says nothing of the global model that came of that round.
        if self._last_steps and local.kept and local.kept_round == local.round - 1:
            self._corrections = {name: self._correction(name, local.kept) for name in self._parameters}

    def _correction(self, name: str, kept: Mapping[str, torch.Tensor]) -> torch.Tensor:
        start = self._start[name]
        scale = self._server_lr * float(kept["lr"]) * self._last_steps
        added = (start - kept[f"u/{name}"].to(start.device)) / scale
        older = kept.get(f"c/{name}")
        return added if older is None or self._forget else older.to(start.device) + added

    def adjust_gradients(self) -> None:
        for name, correction in self._corrections.items():
            gradient = self._parameters[name].grad
            if gradient is not None:
                gradient.sub_(correction)

    def kept(self) -> State:
        kept = {f"c/{name}": correction for name, correction in self._corrections.items()}
        for name, parameter in self._parameters.items():
            theta, start = parameter.detach(), self._start[name]
            kept[f"u/{name}"] = theta if self._server_lr == 1 else torch.lerp(start, theta, self._server_lr)
        return kept | {"lr": torch.tensor(self._lr, dtype=torch.float64)}


def _learning_rate(optimizer: torch.optim.Optimizer) -> float:
    """The optimizer's; a correction is made of a round's steps, so they must be gradients times one learning rate."""
    to_do = "write self.optimizer = torch.optim.SGD(self.parameters(), lr=…) in the plan, or take another aggregator"
    if type(optimizer) is not torch.optim.SGD:
        raise ConfigError(f"Scaffold needs torch.optim.SGD, the plan has {type(optimizer).__name__}", to_do=to_do)
    if odd := [key for key in ("momentum", "maximize") if any(group[key] for group in optimizer.param_groups)]:
        raise ConfigError(f"Scaffold needs plain SGD, the plan's has {odd[0]}", to_do=to_do)
    rates = sorted({float(group["lr"]) for group in optimizer.param_groups})
    if len(rates) > 1:
        raise ConfigError(
            f"Scaffold needs one learning rate, the plan's optimizer has {', '.join(map(str, rates))}",
            to_do="give lr in training_args, which sets it for all layers",
        )
    return rates[0]
