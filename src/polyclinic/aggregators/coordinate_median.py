"""The median of the nodes' models, value by value.

    w_j  <-  median over k of w_kj
Each node counts alike; of an even number of nodes, it is the mean of the middle two. As long as fewer than half of the
nodes are hostile or broken, each value lies between two that sound nodes sent.

Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018, arXiv:1803.01498,
Definition 1. Differs: of models after local training, not of gradients. BatchNorm statistics and counters take their
median as well, counters rounded.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from polyclinic.aggregators.aggregator import Aggregator, State
from polyclinic.aggregators.kept_updates import KeptUpdates, median
from polyclinic.messages.replies import TrainReply


class CoordinateMedian(Aggregator):
    """Takes the median of the nodes' values; keeps all updates of a round in memory."""

    def __init__(self) -> None:
        self._updates: KeptUpdates | None = None

    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        self._updates = KeptUpdates(state)

    def add(self, update: TrainReply) -> None:
        assert self._updates is not None, "begin() comes first"
        self._updates.add(update)

    def finish(self) -> State:
        assert self._updates is not None, "begin() comes first"
        updates, self._updates = self._updates, None
        return updates.combined(median)
