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
        self._check(node_id, tensors)
        for name, total in self._sums.items():
            values = tensors[name].detach().reshape(-1).cpu()
            if not values.is_floating_point():
                values = values.to(torch.int64) - self._begin[name].reshape(-1).to(torch.int64)
            _add_scaled(total, values, weight)
        self._weight += weight

    def finish(self) -> dict[str, torch.Tensor]:
        """The mean, in the dtypes of the model the round began with. Sums are given up one by one.

        Raises:
            AggregationError: if the weights sum to zero.
        """
        if not self._weight:
            raise AggregationError("no node contributed a sample in this round")
        mean = {}
        for name in list(self._sums):
            total, begin = self._sums.pop(name).div_(self._weight), self._begin[name]
            if not begin.is_floating_point():
                total = begin.reshape(-1).to(torch.int64) + total.round_().to(torch.int64)
            mean[name] = total.to(begin.dtype).reshape(begin.shape)
        return mean

    def _check(self, node_id: str, tensors: Mapping[str, torch.Tensor]) -> None:
        if odd := sorted(tensors.keys() ^ self._begin.keys()):
            raise AggregationError(
                f"node {node_id} sent other tensors than the model has: {', '.join(odd[:5])}",
                to_do="the plan must build the same model at every node",
            )
        for name, begin in self._begin.items():
            sent = tensors[name]
            if sent.shape != begin.shape or sent.dtype != begin.dtype:
                raise AggregationError(
                    f"node {node_id} sent tensor {name!r} as {sent.dtype} {tuple(sent.shape)}, "
                    f"the model has {begin.dtype} {tuple(begin.shape)}",
                    to_do="the plan must build the same model at every node",
                )


def _add_scaled(total: torch.Tensor, values: torch.Tensor, weight: float) -> None:
    if len(total) <= _CHUNK:
        total.add_(values, alpha=weight)
        return
    # In chunks, because torch would make a float64 copy of all the values first.
    for part, chunk in zip(torch.split(total, _CHUNK), torch.split(values, _CHUNK), strict=True):
        part.add_(chunk, alpha=weight)
