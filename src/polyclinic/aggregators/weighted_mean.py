"""A streaming weighted mean of models.

Floating-point tensors are summed in float64 and rounded once, at the end. Integer and boolean tensors (counters) are
averaged as well and rounded to the nearest value; they are summed as differences from the model the round began with,
so that a value that all nodes agree on comes out exactly, however large, as long as it moved by less than
2^52 / nodes in the round. Where the mean lies in the middle, as in a tied vote of booleans, it is rounded to even:
to the beginning, or an even number of steps away from it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from polyclinic.aggregators.arithmetic import check_fits, flat, unflat
from polyclinic.errors import AggregationError

# Values converted to float64 at a time: they stay in a core's cache, and torch does not start threads for so few, which
# on a busy machine would wait for each other longer than the sum takes.
_CHUNK = 1 << 15


class WeightedMean:
    """Sum over updates of weight · tensor, divided by the sum of weights.

    Args:
        begin: the model that the round began with; names, shapes and dtypes of all updates.
    """

    def __init__(self, begin: Mapping[str, torch.Tensor]) -> None:
        self._begin = begin
        self._sums = {name: torch.zeros(t.numel(), dtype=torch.float64) for name, t in begin.items()}
        self._weight = 0.0

    def add(self, node_id: str, tensors: Mapping[str, torch.Tensor], weight: float) -> None:
        """Adds one update; nothing is added if it does not fit.

        Raises:
            AggregationError: naming the node and the tensor.
        """
        check_fits(node_id, tensors, self._begin)
        for name, total in self._sums.items():
            _add_scaled(total, flat(tensors[name], self._begin[name]), weight)
        self._weight += weight

    def finish(self) -> dict[str, torch.Tensor]:
        """The mean, in the dtypes of the model the round began with. Sums are given up one by one.

        Raises:
            AggregationError: if the weights sum to zero.
        """
        if not self._weight:
            raise AggregationError("no node contributed a sample in this round")
        return {name: unflat(self._sums.pop(name).div_(self._weight), t) for name, t in self._begin.items()}


def _add_scaled(total: torch.Tensor, values: torch.Tensor, weight: float) -> None:
    if len(total) <= _CHUNK:
        total.add_(values, alpha=weight)
        return
    # In chunks, because torch would make a float64 copy of all the values first.
    for part, chunk in zip(torch.split(total, _CHUNK), torch.split(values, _CHUNK), strict=True):
        part.add_(chunk, alpha=weight)
