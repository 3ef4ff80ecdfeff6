"""The contract of aggregators, and of what they change in local training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from polyclinic.messages.replies import TrainReply
from polyclinic.messages.requests import LocalRule

State = dict[str, torch.Tensor]


class Aggregator(ABC):
    """Turns one round's updates into the next global model.

    A round is `begin`, then `add` once a node, in the order of node ids, then `finish`. Updates are added as they
    come, so memory does not grow with the number of nodes. An update's tensors are only valid during `add`.
    """

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""
        return {}

    @property
    def local_rule(self) -> LocalRule | None:
        """What the nodes do differently from plain training; None: nothing."""
        return None

    @abstractmethod
    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        """Starts a round from the global model, which is not changed."""

    @abstractmethod
    def add(self, update: TrainReply) -> None:
        """Adds one node's update.

        Raises:
            AggregationError: if its tensors do not fit; names the node and the tensor. Nothing was added then.
        """

    @abstractmethod
    def finish(self) -> State:
        """The next global model.

        Raises:
            AggregationError: if no update was added.
        """

    def state_dict(self) -> State:
        """What must be kept from one round to the next, besides the model."""
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:  # noqa: B027 (most have no state)
        """Takes back what `state_dict` gave."""


class LocalRuleStep(ABC):
    """What a node does for an aggregator in local training."""

    name: ClassVar[str]

    @abstractmethod
    def __init__(self, numbers: Mapping[str, float]) -> None:
        """Takes the request's numbers; raises ConfigError if they are not the rule's."""

    @abstractmethod
    def begin(self, parameters: Mapping[str, torch.nn.Parameter], sent: Mapping[str, torch.Tensor]) -> None:
        """Called before the round's first step, with the plan's parameters and the tensors that were sent."""

    @abstractmethod
    def adjust_gradients(self) -> None:
        """Called in each step between backward and the optimizer's step."""
