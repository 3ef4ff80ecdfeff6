"""The batches of many nodes, taken together.

A node's loss is its plan's own function of a batch, a mean as a rule, so a batch that is shorter than the others is
never filled up: nodes whose next batches have the same length take a step together, and the others wait. Nodes do not
depend on each other, so it does not matter that one is ahead of another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Together:
    """Nodes that take a step together.

    Attributes:
        nodes: their numbers in the stack, (n,).
        steps: which of its steps each takes, from 0, (n,).
        size: samples in each one's batch.
    """

    nodes: Ints
    steps: Ints
    size: int

    def padded(self, most: int) -> Together:
        """With the last node repeated, up to one of a few numbers of nodes: a step is prepared for each such number."""
        n = len(self.nodes)
        quarter = max((1 << (n - 1).bit_length()) // 4, 1)
        more = min(-(-n // quarter) * quarter, most) - n
        if not more:
            return self
        return Together(np.pad(self.nodes, (0, more), "edge"), np.pad(self.steps, (0, more), "edge"), self.size)


class StackedBatches:
    """Which rows are in which node's which batch.

    Args:
        columns: each node's tensors; their first dimensions are the samples.
        orders: each node's sample numbers of the round, one tensor for each (part of a) pass over its data.
        batch_size: of all batches but the last one of a part.
    """

    def __init__(
        self, columns: Sequence[Sequence[torch.Tensor]], orders: Sequence[Sequence[torch.Tensor]], batch_size: int
    ) -> None:
        self._columns = [torch.cat(column) for column in zip(*columns, strict=True)]
        layouts: dict[tuple[int, ...], Ints] = {}
        sizes = []
        for parts in orders:
            lengths = tuple(part.shape[0] for part in parts)
            if lengths not in layouts:
                layouts[lengths] = _batch_sizes(lengths, batch_size)
            sizes.append(layouts[lengths])
        self.num_updates = np.array([len(s) for s in sizes])
        # A column more, of zeros: a node that is done has an empty batch next.
        self._sizes = np.zeros((len(sizes), self.num_updates.max() + 1), np.int64)
        for number, of_node in enumerate(sizes):
            self._sizes[number, : len(of_node)] = of_node
        used = self._sizes.sum(axis=1)
        self._begins = np.cumsum(self._sizes, axis=1) - self._sizes + _begins(used)[:, None]
        first_rows = _begins(np.array([column[0].shape[0] for column in columns]))
        self._rows = torch.cat([part for parts in orders for part in parts])
        self._rows += torch.from_numpy(np.repeat(first_rows, used))

    def __iter__(self) -> Iterator[Together]:
        """All steps of all nodes, each time those that wait with the same size as the one with the most steps to go.

        So a node that had to wait catches up before the others go on, and the last batches of passes over data of
        different sizes, where those are the nodes' last steps, are taken together at the end.
        """
        at = np.zeros(len(self._sizes), np.int64)
        everyone = np.arange(len(at))
        while True:
            to_go = self.num_updates - at
            last = int(to_go.argmax())
            if not to_go[last]:
                return
            waiting = self._sizes[everyone, at]
            size = int(waiting[last])
            nodes = np.flatnonzero(waiting == size)
            yield Together(nodes, at[nodes], size)
            at[nodes] += 1

    def load(self, together: Together) -> tuple[torch.Tensor, ...]:
        """The nodes' batches, each tensor (nodes, size, …)."""
        begins = self._begins[together.nodes, together.steps]
        places = torch.from_numpy((begins[:, None] + np.arange(together.size)).ravel())
        rows = self._rows[places]
        shape = (len(together.nodes), together.size)
        return tuple(column.index_select(0, rows).view(*shape, *column.shape[1:]) for column in self._columns)


def _batch_sizes(lengths: Sequence[int], batch_size: int) -> Ints:
    sizes: list[int] = []
    for length in lengths:
        sizes += [batch_size] * (length // batch_size)
        if rest := length % batch_size:
            sizes.append(rest)
    return np.array(sizes, np.int64)


def _begins(lengths: Ints) -> Ints:
    """Where each of these begins if one follows the other."""
    found: Ints = np.cumsum(lengths) - lengths
    return found
