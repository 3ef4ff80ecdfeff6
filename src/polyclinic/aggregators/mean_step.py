"""The nodes' mean step, for rules that treat it as a direction to go in.

A node's step is what its local training did to the parameters, in float64: s_k = w_k − w. The mean step is
    D = sum_k a_k s_k / sum_k a_k
for weights a_k of the rule's choice. What is no parameter (BatchNorm statistics, counters, other integers) takes the
plain weighted mean instead: an extrapolated variance may be negative, and one divided by its own size means nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import torch

from polyclinic.aggregators.aggregator import State
from polyclinic.aggregators.arithmetic import check_fits
from polyclinic.aggregators.weighted_mean import WeightedMean
from polyclinic.messages.replies import TrainReply

# As in weighted_mean, and half of it, since a sum over more would be divided among threads: its bits would depend on
# their number.
_CHUNK = 1 << 14


class MeanStep:
    """Adds up one round's steps as they come.

    Args:
        begin: the model that the round began with; names, shapes and dtypes of all updates.
        buffers: names of its tensors that are no parameters.

    Attributes:
        begin: as given.
        weight: the sum of a_k.
    """

    def __init__(self, begin: Mapping[str, torch.Tensor], buffers: Collection[str]) -> None:
        self.begin = begin
        stepped = {name: t for name, t in begin.items() if t.is_floating_point() and name not in buffers}
        self._sums = {name: torch.zeros(t.numel(), dtype=torch.float64) for name, t in stepped.items()}
        self._others = WeightedMean({name: t for name, t in begin.items() if name not in stepped})
        self.weight = 0.0

    def add(self, update: TrainReply, weight: float, *, plain: float | None = None) -> float:
        """Adds one update.

        Args:
            weight: a_k.
            plain: the update's weight in the mean of all that is no parameter; None: a_k.

        Returns:
            The squared length of the node's step, ||s_k||².

        Raises:
            AggregationError: if its tensors do not fit. Nothing was added then.
        """
        check_fits(update.node_id, update.tensors, self.begin)
        squared_length = sum(
            _add_step(total, update.tensors[name], self.begin[name], weight) for name, total in self._sums.items()
        )
        others = {name: t for name, t in update.tensors.items() if name not in self._sums}
        self._others.add(update.node_id, others, weight if plain is None else plain)
        self.weight += weight
        return squared_length

    def finish(self) -> tuple[State, State]:
        """The mean step D by parameter, in float64 and in the parameters' shapes; and all other tensors' means.

        Raises:
            AggregationError: if no update was added.
        """
        others = self._others.finish()
        mean = {name: self._sums.pop(name).div_(self.weight).reshape(self.begin[name].shape) for name in [*self._sums]}
        return mean, others

    def moved(self, steps: Iterable[tuple[str, torch.Tensor]], others: State) -> State:
        """The next model: w + step for each parameter, added in float64 and rounded once; the others as they are."""
        new = dict(others)
        for name, step in steps:
            new[name] = (self.begin[name].double() + step).to(self.begin[name].dtype)
        return {name: new[name] for name in self.begin}


def squared_length(steps: Mapping[str, torch.Tensor]) -> float:
    """||D||² of float64 steps."""
    parts = (part for step in steps.values() for part in torch.split(step.reshape(-1), _CHUNK))
    return sum(part.square().sum().item() for part in parts)


def _add_step(total: torch.Tensor, values: torch.Tensor, begin: torch.Tensor, weight: float) -> float:
    squared_length = 0.0
    for part, sent, start in zip(
        torch.split(total, _CHUNK),
        torch.split(values.detach().reshape(-1).cpu(), _CHUNK),
        torch.split(begin.reshape(-1), _CHUNK),
        strict=True,
    ):
        step = sent.double() - start.double()
        part.add_(step, alpha=weight)
        squared_length += step.square().sum().item()
    return squared_length
