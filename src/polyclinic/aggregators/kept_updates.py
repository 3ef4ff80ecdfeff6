"""All updates of a round at once, for rules that need each of them: medians, distances.

They are copied, so memory grows with the number of nodes: a model's size for each. Values are looked at in float64, a
few columns at a time.

A hostile node may send what is no number. NaN is sorted above all numbers, so that the median and the trimmed mean set
it aside like any other extreme value.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import numpy as np
import torch

from polyclinic.aggregators.aggregator import State
from polyclinic.aggregators.arithmetic import check_fits, flat, unflat
from polyclinic.errors import AggregationError
from polyclinic.messages.replies import TrainReply

# Values of all nodes together. They stay in a core's cache, and torch does not start threads for so few, which on a
# busy machine would wait for each other longer than the work takes.
_CHUNK = 1 << 14


class KeptUpdates:
    """Copies of the updates, in the order they were added.

    Args:
        begin: the model that the round began with; names, shapes and dtypes of all updates.

    Attributes:
        begin: as given.
        num_samples: the training samples of each node.
    """

    def __init__(self, begin: Mapping[str, torch.Tensor]) -> None:
        self.begin = begin
        self.num_samples: list[int] = []
        self._updates: list[State] = []

    def __len__(self) -> int:
        return len(self._updates)

    def add(self, update: TrainReply) -> None:
        """Copies one update.

        Raises:
            AggregationError: if its tensors do not fit. Nothing was added then.
        """
        check_fits(update.node_id, update.tensors, self.begin)
        self._updates.append({name: t.detach().clone().cpu() for name, t in update.tensors.items()})
        self.num_samples.append(update.num_samples)

    def only(self, chosen: Iterable[int]) -> KeptUpdates:
        """Some of the updates, by their place in the order; nothing is copied."""
        some, places = KeptUpdates(self.begin), sorted(chosen)
        some._updates = [self._updates[place] for place in places]
        some.num_samples = [self.num_samples[place] for place in places]
        return some

    def columns(self, names: Collection[str]) -> Iterator[torch.Tensor]:
        """The updates' values in these tensors, a few at a time: float64, (updates, values)."""
        for name in names:
            yield from self._columns_of(name)

    def combined(self, rule: Callable[[torch.Tensor], torch.Tensor], names: Collection[str] | None = None) -> State:
        """Each value made by ``rule`` of all updates' values: (updates, values) -> (values,).

        Args:
            names: of these tensors only.

        Raises:
            AggregationError: if no update was added.
        """
        if not self._updates:
            raise AggregationError("no node contributed a sample in this round")
        return {
            name: unflat(torch.cat([rule(values) for values in self._columns_of(name)]), t)
            for name, t in self.begin.items()
            if names is None or name in names
        }

    def _columns_of(self, name: str) -> Iterator[torch.Tensor]:
        begin = self.begin[name]
        rows = [flat(update[name], begin) for update in self._updates]
        for parts in zip(*(torch.split(row, max(1, _CHUNK // len(rows))) for row in rows), strict=True):
            yield torch.stack(parts).double()


def ordered(values: torch.Tensor) -> torch.Tensor:
    """Each column in rising order, NaN last; of float64, (updates, values)."""
    # numpy's sort takes half as long as torch's.
    return torch.from_numpy(np.sort(values.numpy(), axis=0))


def median(values: torch.Tensor) -> torch.Tensor:
    """The median over the updates, (updates, values) -> (values,); of an even number, the mean of the middle two."""
    rising, half = ordered(values), len(values) // 2
    return rising[half] if len(values) % 2 else (rising[half - 1] + rising[half]) / 2
