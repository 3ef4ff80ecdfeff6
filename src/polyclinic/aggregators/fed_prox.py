"""FedProx: local training held near the global model.

Each node minimises  F_k(w) + (mu / 2) ||w - w_global||²,  mu >= 0, so each step's gradient gains mu (w - w_global).
The updates are averaged as in `FedAverage`; mu = 0 is exactly that (tested).

Li et al., Federated Optimization in Heterogeneous Networks, MLSys 2020, arXiv:1812.06127.
Differs: a node stops after its epochs or updates, not at a gamma-inexact solution.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, SupportsFloat

import torch

from polyclinic.aggregators.aggregator import LocalRound, LocalRuleStep
from polyclinic.aggregators.fed_average import FedAverage
from polyclinic.errors import ConfigError
from polyclinic.messages.requests import LocalRule


class FedProx(FedAverage):
    """Averages models that were trained with a proximal term.

    Args:
        mu: weight of the term, at least 0. Try 0.001, 0.01, 0.1 and 1.
        weights: as in `FedAverage`.

    Raises:
        ConfigError: for a mu that is negative or not finite.
    """

    def __init__(self, mu: float, *, weights: Literal["num_samples", "uniform"] = "num_samples") -> None:
        super().__init__(weights=weights)
        self._rule = LocalRule(name=ProximalTerm.name, numbers={"mu": ProximalTerm({"mu": mu}).mu})

    @property
    def settings(self) -> dict[str, Any]:
        return {**self._rule.numbers, **super().settings}

    @property
    def local_rule(self) -> LocalRule:
        return self._rule


class ProximalTerm(LocalRuleStep):
    """Adds mu (w - w_global) to each gradient."""

    name: ClassVar[str] = "proximal"

    def __init__(self, numbers: Mapping[str, float]) -> None:
        mu: object = numbers.get("mu")
        if set(numbers) != {"mu"} or not isinstance(mu, SupportsFloat) or not 0 <= float(mu) < math.inf:
            raise ConfigError("FedProx needs a finite mu of at least 0", to_do="write FedProx(mu=0.01)")
        self.mu: float = float(mu)
        self._parameters: list[torch.nn.Parameter] = []
        self._start: list[torch.Tensor] = []

    def begin(self, local: LocalRound) -> None:
        # A layer of the node's own has no global value to be held near.
        held = {name: p for name, p in local.parameters.items() if name not in local.local_layers}
        self._parameters = list(held.values())
        self._start = [local.sent[name].to(parameter.device) for name, parameter in held.items()]

    def adjust_gradients(self) -> None:
        if not self.mu:
            return
        with torch.no_grad():
            for parameter, start in zip(self._parameters, self._start, strict=True):
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - start, alpha=self.mu)
