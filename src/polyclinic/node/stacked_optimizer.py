"""Optimizers that step many nodes' models at once: each row of a table is one node's parameters.

They follow torch's formulas term by term. A node's own number of steps counts, so nodes may be at different steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

# Settings of torch's that change how fast a step is computed, and not what comes of it.
_ONLY_SPEED = {"foreach", "fused", "capturable"}


class Declined(Exception):
    """Why nodes cannot be trained as one stack: a sentence. The plain path runs then."""


class StackedOptimizer(ABC):
    """An optimizer with the settings of a parameter group, without its own tables."""

    def __init__(self, group: Mapping[str, Any]) -> None:
        self.lr = float(group["lr"])
        self.weight_decay = float(group["weight_decay"])
        self.sign = -1.0 if group["maximize"] else 1.0

    @abstractmethod
    def tables(self, like: torch.Tensor) -> list[torch.Tensor]:
        """What each node's optimizer starts with; ``like`` is the table of parameters, (nodes, values)."""

    @abstractmethod
    def step(self, w: torch.Tensor, g: torch.Tensor, *tables: torch.Tensor) -> None:
        """Changes the parameters ``w`` and the tables in place, and may use up the gradients ``g``, (nodes, values)."""


class StackedSGD(StackedOptimizer):
    """g <- g + wd·w;  m <- momentum·m + (1 - dampening)·g, at a node's first step m <- g;  w <- w - lr·m.

    Nesterov: w <- w - lr·(g + momentum·m). Without momentum m is g.
    """

    def __init__(self, group: Mapping[str, Any]) -> None:
        super().__init__(group)
        self.momentum, self.dampening = float(group["momentum"]), float(group["dampening"])
        self.nesterov = bool(group["nesterov"])

    def tables(self, like: torch.Tensor) -> list[torch.Tensor]:
        if not self.momentum:
            return []
        return [torch.zeros_like(like), torch.zeros(len(like), 1, dtype=torch.float64)]

    def step(self, w: torch.Tensor, g: torch.Tensor, *tables: torch.Tensor) -> None:
        if self.sign < 0:
            g = g.neg_()
        if self.weight_decay:
            g = g.add_(w, alpha=self.weight_decay)
        if self.momentum:
            moment, steps = tables
            moment.mul_(self.momentum)
            if self.dampening:
                moment.add_(g * (1 - self.dampening * (steps > 0).double()).to(g.dtype))
            else:
                moment.add_(g)
            steps.add_(1)
            g = g.add_(moment, alpha=self.momentum) if self.nesterov else moment
        w.add_(g, alpha=-self.lr)


class StackedAdam(StackedOptimizer):
    """Kingma & Ba, ICLR 2015, arXiv:1412.6980; with decoupled weight decay, AdamW (arXiv:1711.05101)."""

    def __init__(self, group: Mapping[str, Any], *, decoupled: bool) -> None:
        super().__init__(group)
        self.decoupled = decoupled
        self.beta1, self.beta2 = map(float, group["betas"])
        self.eps = float(group["eps"])

    def tables(self, like: torch.Tensor) -> list[torch.Tensor]:
        return [torch.zeros_like(like), torch.zeros_like(like), torch.zeros(len(like), 1, dtype=torch.float64)]

    def step(self, w: torch.Tensor, g: torch.Tensor, *tables: torch.Tensor) -> None:
        mean, square, steps = tables
        steps.add_(1)
        if self.sign < 0:
            g = g.neg_()
        if self.decoupled:
            w.mul_(1 - self.lr * self.weight_decay)
        elif self.weight_decay:
            g = g.add_(w, alpha=self.weight_decay)
        mean.lerp_(g, 1 - self.beta1)
        square.mul_(self.beta2).addcmul_(g, g, value=1 - self.beta2)
        step_size = (self.lr / (1 - self.beta1**steps)).to(w.dtype)
        scale = (1 - self.beta2**steps).sqrt().to(w.dtype)
        w.sub_(mean / (square.sqrt() / scale).add_(self.eps) * step_size)


def stacked_optimizer(optimizer: torch.optim.Optimizer) -> StackedOptimizer:
    """The same optimizer for a stack, with the settings it has now.

    Raises:
        Declined: it is of another kind than SGD, Adam and AdamW, or has settings that are not known here.
    """
    kind = type(optimizer)
    if kind not in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
        raise Declined(f"the optimizer {kind.__name__} is not supported (SGD, Adam and AdamW are)")
    if len(optimizer.param_groups) != 1:
        raise Declined(f"the optimizer has {len(optimizer.param_groups)} groups of parameters")
    group = optimizer.param_groups[0]
    if group.get("amsgrad") or group.get("differentiable"):
        raise Declined("the optimizer's settings amsgrad and differentiable are not supported")
    known = {"params", "lr", "weight_decay", "maximize", "amsgrad", "differentiable", "initial_lr"} | _ONLY_SPEED
    known |= {"momentum", "dampening", "nesterov"} if kind is torch.optim.SGD else {"betas", "eps"}
    if odd := sorted(group.keys() - known - {"decoupled_weight_decay"}):
        raise Declined(f"the optimizer's setting {odd[0]} is not known")
    if kind is torch.optim.SGD:
        return StackedSGD(group)
    return StackedAdam(group, decoupled=bool(group.get("decoupled_weight_decay", kind is torch.optim.AdamW)))
