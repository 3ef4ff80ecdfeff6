"""The contract of aggregators, and of what they change in local training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from polyclinic.messages.replies import TrainReply
from polyclinic.messages.requests import LocalRule

State = dict[str, torch.Tensor]


class Aggregator(ABC):
    """Turns one round's updates into the next global model.

    A round is `begin`, then `add` once a node, in the order of node ids, then `finish`. Updates are added as they
    come, so memory does not grow with the number of nodes. An update's tensors are only valid during `add`.

    Attributes:
        buffers: the names of the model's tensors that are no parameters: BatchNorm statistics and counters. Rules
            that divide or extrapolate must leave them to a plain mean: a variance may not become negative.
    """

    buffers: frozenset[str] = frozenset()

    @property
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments, as JSON values."""
        return {}

    @property
    def local_rule(self) -> LocalRule | None:
        """What the nodes do differently from plain training; None: nothing."""
        return None

    def local_layers(self, plan: torch.nn.Module) -> Collection[str]:  # noqa: ARG002
        """The names of tensors of the plan that each node trains and keeps for itself; they never leave it."""
        return ()

    def choose(self, round_index: int, node_ids: Sequence[str]) -> Sequence[str]:  # noqa: ARG002
        """Which of the nodes take part in this round. Default: all.

        Must depend on its arguments and on `settings` alone, so that a resumed experiment chooses alike.
        """
        return node_ids

    def setup(self, buffers: Collection[str]) -> None:
        """Called once, before the first round: the names of the model's tensors that are no parameters."""
        self.buffers = frozenset(buffers)

    @abstractmethod
    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        """Starts a round from the global model, without the local layers; it is not changed."""

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
        """What must be kept from one round to the next, besides the model; tensors that nothing changes afterwards."""
        return {}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:  # noqa: B027 (most have no state)
        """Takes back what `state_dict` gave: after a restart, or because a round could not be completed."""


@dataclass(frozen=True, kw_only=True)
class LocalRound:
    """What a node's rule is told at the beginning of a round.

    Attributes:
        parameters: the plan's live parameters, by name; they hold the global model (local layers: the node's own).
        sent: the global model's tensors, as they came.
        optimizer: the plan's, with this round's learning rate.
        round: counted from 1.
        kept: what the rule kept at this node (see `LocalRuleStep.kept`); empty before its first round.
        kept_personal: the node's personal model (see `LocalRuleStep.personal`), likewise.
        kept_round: the round after which both were kept; 0 before the node's first round.
        local_layers: names of the tensors that stay at this node.
        live: all tensors of the plan at the moment of the call, parameters and buffers, to be read or copied into.
    """

    parameters: Mapping[str, torch.nn.Parameter]
    sent: Mapping[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    round: int
    kept: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kept_personal: Mapping[str, torch.Tensor] = field(default_factory=dict)
    kept_round: int = 0
    local_layers: frozenset[str] = frozenset()
    live: Callable[[], State] = dict

    @property
    def shared(self) -> dict[str, torch.nn.Parameter]:
        """The parameters that are trained and sent, by name."""
        return {n: p for n, p in self.parameters.items() if p.requires_grad and n not in self.local_layers}

    def start(self, name: str) -> torch.Tensor:
        """What a parameter was in the global model, on the parameter's device."""
        return self.sent[name].to(self.parameters[name].device)


class LocalRuleStep(ABC):
    """What a node does for an aggregator in local training.

    A round is `begin`; then for each of `passes`: `begin_pass`, the pass's batches with `adjust_gradients` in each
    step, `end_pass`; then `kept` and `personal`. The pass "train" is the one whose losses and steps are reported; all
    passes go over the same batches. After the last pass the plan's tensors must be what the node sends.
    """

    name: ClassVar[str]
    # Whether nodes must keep something of this rule from one round to the next.
    keeps: ClassVar[bool] = False
    passes: tuple[str, ...] = ("train",)

    @abstractmethod
    def __init__(self, numbers: Mapping[str, float]) -> None:
        """Takes the request's numbers; raises ConfigError if they are not the rule's."""

    @abstractmethod
    def begin(self, local: LocalRound) -> None:
        """Called before the round's first step.

        Raises:
            ConfigError: the rule does not work with this optimizer or these local layers.
        """

    def begin_pass(self, name: str) -> None:  # noqa: B027 (most have one pass)
        """Called before a pass."""

    def adjust_gradients(self) -> None:  # noqa: B027 (some only act around the passes)
        """Called in each step between backward and the optimizer's step."""

    def end_pass(self, name: str, num_updates: int) -> None:  # noqa: B027
        """Called after a pass of this many steps."""

    def kept(self) -> State:
        """What the node keeps for the rule's next round; asked after the last pass."""
        return {}

    def personal(self) -> State:
        """Tensors of the node's personal model that differ from what it sends; evaluated at the node, never sent."""
        return {}
