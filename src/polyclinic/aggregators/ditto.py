"""Ditto: a global model as in `FedAverage`, and a model of each node's own that is held near it.

In each round a node trains what it sends from w, as in FedAvg, and then on the same batches its own model
    v_k  ~  argmin_v  F_k(v) + (lam / 2) ||v - w||²,   lam >= 0
from where v_k was after its last round; at first from w. v_k never leaves the node.

Li et al., Ditto: Fair and Robust Federated Learning Through Personalization, ICML 2021, arXiv:2012.04221, algorithm 1.
Differs: v_k takes as many steps as the global model; nodes count by their samples unless weights="uniform".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from polyclinic.aggregators.aggregator import LocalRound, LocalRuleStep, State
from polyclinic.aggregators.fed_average import FedAverage
from polyclinic.aggregators.settings import Weights, number, require_numbers
from polyclinic.messages.requests import LocalRule

_PERSONAL = "personal"


class Ditto(FedAverage):
    """Averages models, and lets each node train one of its own, which `Experiment.evaluate` judges by default.

    Args:
        lam: how firmly a node's model is held near the global one, at least 0. Try 0.01, 0.1 and 1. 0: models that
            nodes train alone.
        weights: as in `FedAverage`.

    Raises:
        ConfigError: for a lam that is negative or not finite.
    """

    def __init__(self, lam: float, *, weights: Weights = "num_samples") -> None:
        super().__init__(weights=weights)
        self.lam = number(self, "lam", lam, at_least=0, example=0.1)

    @property
    def settings(self) -> dict[str, Any]:
        return {"lam": self.lam, **super().settings}

    @property
    def local_rule(self) -> LocalRule:
        return LocalRule(name=PersonalModel.name, numbers={"lam": self.lam})


class PersonalModel(LocalRuleStep):
    """Trains the node's own model after the one that is sent, with an optimizer that begins afresh."""

    name: ClassVar[str] = "ditto"
    keeps: ClassVar[bool] = True
    passes = ("train", _PERSONAL)

    def __init__(self, numbers: Mapping[str, float]) -> None:
        require_numbers(self.name, numbers, ("lam",))
        self._lam = number("Ditto", "lam", numbers["lam"], at_least=0, example=0.1)
        self._local: LocalRound | None = None
        self._held: list[tuple[torch.nn.Parameter, torch.Tensor]] = []
        self._other: State = {}
        self._other_moments: dict[Any, Any] = {}
        self._in_personal_pass = False

    def begin(self, local: LocalRound) -> None:
        self._local = local
        self._held = [(parameter, local.start(name)) for name, parameter in local.shared.items()]
        # The model that is not on the workbench: before its pass the personal one, after it what it has become.
        self._other = _copy(local.live()) | dict(local.kept_personal)

    def begin_pass(self, name: str) -> None:
        if name == _PERSONAL:
            self._swap()
            self._in_personal_pass = True

    def adjust_gradients(self) -> None:
        if not self._in_personal_pass or not self._lam:
            return
        with torch.no_grad():
            for parameter, start in self._held:
                if parameter.grad is not None:
                    parameter.grad.add_(parameter - start, alpha=self._lam)

    def end_pass(self, name: str, num_updates: int) -> None:  # noqa: ARG002
        if name == _PERSONAL:
            self._swap()
            self._in_personal_pass = False

    def personal(self) -> State:
        return self._other

    def _swap(self) -> None:
        """Exchanges the model and the optimizer's moments on the workbench for the other ones."""
        assert self._local is not None, "begin() comes first"
        live, moments = self._local.live(), self._local.optimizer.state
        self._other, put = _copy(live), self._other
        self._other_moments, put_moments = dict(moments), self._other_moments
        moments.clear()
        moments.update(put_moments)
        with torch.no_grad():
            for name, tensor in live.items():
                tensor.copy_(put[name])


def _copy(tensors: State) -> State:
    return {name: tensor.clone() for name, tensor in tensors.items()}
