"""FedRep: one representation for all, a head for each node.

The model is a body, which is averaged as in `FedAverage`, and a head, which stays at the node. In each round a node
first trains its head with the body as it was sent, then the body with that head:
    h_k      ~  argmin_h  F_k(h, body)          head_passes times over the round's batches
    body_k   ~  argmin    F_k(h_k, body)        once

Collins et al., Exploiting Shared Representations for Personalized Federated Learning, ICML 2021, arXiv:2102.07078.
Differs: nodes count by their samples unless weights="uniform"; the optimizer is the plan's in both parts.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import torch

from polyclinic.aggregators.aggregator import LocalRound, LocalRuleStep
from polyclinic.aggregators.fed_average import FedAverage
from polyclinic.aggregators.layer_names import matching
from polyclinic.aggregators.settings import Weights, require_numbers, whole
from polyclinic.errors import ConfigError
from polyclinic.messages.requests import LocalRule


class FedRep(FedAverage):
    """Averages the body; each node has a head of its own, which never leaves it.

    Args:
        head: names or patterns of the head's layers, as in ``training_args["local_layers"]``; layers that are named
            there as well count as parts of the head.
        head_passes: how often the head is trained on the round's batches before the body is, at least 1.
        weights: as in `FedAverage`.

    Raises:
        ConfigError: for a head that is no list, or head_passes that is no whole number of at least 1; or, as the
            experiment begins, for a pattern that fits no layer of the plan.
    """

    def __init__(self, head: Sequence[str], *, head_passes: int = 1, weights: Weights = "num_samples") -> None:
        super().__init__(weights=weights)
        if isinstance(head, str) or not head:
            raise ConfigError(f"FedRep: head is a list of layers, got {head!r}", to_do='write FedRep(["model.head"])')
        self.head = list(head)
        self.head_passes = whole(self, "head_passes", head_passes, at_least=1, example=1)

    @property
    def settings(self) -> dict[str, Any]:
        return {"head": self.head, "head_passes": self.head_passes, **super().settings}

    @property
    def local_rule(self) -> LocalRule:
        return LocalRule(name=HeadFirst.name, numbers={"head_passes": float(self.head_passes)})

    def local_layers(self, plan: torch.nn.Module) -> Collection[str]:
        return matching(self.head, plan.state_dict().keys())


class HeadFirst(LocalRuleStep):
    """Trains the local layers alone, then all others alone."""

    name: ClassVar[str] = "head_first"

    def __init__(self, numbers: Mapping[str, float]) -> None:
        require_numbers(self.name, numbers, ("head_passes",))
        times = whole("FedRep", "head_passes", numbers["head_passes"], at_least=1, example=1)
        self.passes = ("head",) * times + ("train",)
        self._head: list[torch.nn.Parameter] = []
        self._body: list[torch.nn.Parameter] = []

    def begin(self, local: LocalRound) -> None:
        self._body = list(local.shared.values())
        trained = {name: p for name, p in local.parameters.items() if p.requires_grad}
        self._head = [p for name, p in trained.items() if name in local.local_layers]
        if not self._head or not self._body:
            part = "the body" if self._head else "the head"
            raise ConfigError(f"FedRep: {part} has no parameters to train", to_do="name other layers as the head")

    def begin_pass(self, name: str) -> None:
        for parameter in self._frozen(name):
            parameter.requires_grad_(False)
            # An optimizer leaves alone what has no gradient, with its moments and its decay.
            parameter.grad = None

    def end_pass(self, name: str, num_updates: int) -> None:  # noqa: ARG002
        for parameter in self._frozen(name):
            parameter.requires_grad_(True)

    def _frozen(self, name: str) -> list[torch.nn.Parameter]:
        return self._body if name == "head" else self._head
