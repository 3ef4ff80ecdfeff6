"""The mean of the nodes' models without the extreme values, value by value.

Of the K nodes' values w_kj, the k = floor(fraction · K) lowest and the k highest are set aside; w_j is the mean of the
rest. Each node counts alike. As long as no more than k nodes are hostile or broken, each value lies between two that
sound nodes sent.

Yin et al., Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates, ICML 2018, arXiv:1803.01498,
Definition 2. Differs: of models after local training, not of gradients. BatchNorm statistics and counters are trimmed
as well, counters rounded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from polyclinic.aggregators.aggregator import Aggregator, State
from polyclinic.aggregators.kept_updates import KeptUpdates, ordered
from polyclinic.aggregators.settings import number
from polyclinic.errors import AggregationError
from polyclinic.messages.replies import TrainReply


class TrimmedMean(Aggregator):
    """Averages the nodes' values without the lowest and the highest; keeps all updates of a round in memory.

    Args:
        fraction: of the nodes, set aside at each end: above 0 and below 0.5. With 4 nodes, 0.25 sets one aside at each
            end; less would set none aside, which is an error in the round.

    Raises:
        ConfigError: for a fraction that is out of range or not finite.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = number(self, "fraction", fraction, above=0, below=0.5, example=0.25)
        self._updates: KeptUpdates | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {"fraction": self.fraction}

    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        self._updates = KeptUpdates(state)

    def add(self, update: TrainReply) -> None:
        assert self._updates is not None, "begin() comes first"
        self._updates.add(update)

    def finish(self) -> State:
        """As `Aggregator.finish`.

        Raises:
            AggregationError: also if so few nodes answered that nothing would be trimmed, or nothing would be left.
        """
        assert self._updates is not None, "begin() comes first"
        updates, self._updates = self._updates, None
        # A little more, since 0.29 · 100 is 28.999999999999996 to a computer.
        trimmed, num_nodes = math.floor(self.fraction * len(updates) + 1e-9), len(updates)
        if not 0 < trimmed < num_nodes / 2:
            raise AggregationError(
                f"TrimmedMean(fraction={self.fraction:g}) sets {trimmed} of {num_nodes} nodes aside at each end",
                to_do="it must set at least one aside and leave at least one: change the fraction or ask more nodes",
            )
        return updates.combined(lambda values: ordered(values)[trimmed : num_nodes - trimmed].mean(dim=0))
