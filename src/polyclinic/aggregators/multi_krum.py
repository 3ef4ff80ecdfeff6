"""Multi-Krum: the mean of the nodes' models that lie closest to others.

With n nodes of which up to f may be hostile or broken, node i's score is
    s_i  =  sum over the n − f − 2 other nodes j nearest to i of ||w_i − w_j||²
and the next model is the mean of the m models with the lowest scores, each counting alike. It must be that n > 2 f + 2.
Distances are over the parameters. BatchNorm statistics and counters count for no distance, so a hostile node could
send wild ones with a usual model: they take the median over all nodes instead.

Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, NeurIPS 2017,
arXiv:1703.02757, section 4. Differs: of models after local training, not of gradients; of equal scores, the lower node
id goes first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import torch

from polyclinic.aggregators.aggregator import Aggregator, State
from polyclinic.aggregators.kept_updates import KeptUpdates, median
from polyclinic.aggregators.settings import whole
from polyclinic.errors import AggregationError
from polyclinic.messages.replies import TrainReply


class MultiKrum(Aggregator):
    """Averages the models of the nodes that lie closest to others; keeps all updates of a round in memory.

    Args:
        num_hostile: f, at least 0. A round needs 2 f + 3 nodes.
        num_selected: m, at least 1. Default: n − f.

    Raises:
        ConfigError: for a setting that is out of range or no whole number.
    """

    def __init__(self, num_hostile: int, *, num_selected: int | None = None) -> None:
        self.num_hostile = whole(self, "num_hostile", num_hostile, at_least=0, example=1)
        self.num_selected = (
            None if num_selected is None else whole(self, "num_selected", num_selected, at_least=1, example=2)
        )
        self._updates: KeptUpdates | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {"num_hostile": self.num_hostile, "num_selected": self.num_selected}

    def begin(self, state: Mapping[str, torch.Tensor]) -> None:
        self._updates = KeptUpdates(state)

    def add(self, update: TrainReply) -> None:
        assert self._updates is not None, "begin() comes first"
        self._updates.add(update)

    def finish(self) -> State:
        """As `Aggregator.finish`.

        Raises:
            AggregationError: also if too few nodes answered for ``num_hostile`` and ``num_selected``.
        """
        assert self._updates is not None, "begin() comes first"
        updates, self._updates = self._updates, None
        num_selected = self._checked(len(updates))
        parameters = {name for name, t in updates.begin.items() if t.is_floating_point() and name not in self.buffers}
        scores = _scores(squared_distances(updates, parameters), len(updates) - self.num_hostile - 2)
        chosen = sorted(range(len(updates)), key=lambda node: scores[node])[:num_selected]
        new = updates.only(chosen).combined(lambda values: values.mean(dim=0), parameters)
        new |= updates.combined(median, updates.begin.keys() - parameters)
        return {name: new[name] for name in updates.begin}

    def _checked(self, num_nodes: int) -> int:
        """How many models to take of so many."""
        name, f = type(self).__name__, self.num_hostile
        if num_nodes <= 2 * f + 2:
            raise AggregationError(
                f"{name}(num_hostile={f}) needs at least {2 * f + 3} nodes, {num_nodes} answered",
                to_do="ask more nodes, lower num_hostile, or take CoordinateMedian",
            )
        num_selected = num_nodes - f if self.num_selected is None else self.num_selected
        if num_selected > num_nodes - f:
            raise AggregationError(
                f"{name}(num_hostile={f}, num_selected={num_selected}) would take a hostile one of {num_nodes} models",
                to_do=f"set num_selected to at most {num_nodes - f}",
            )
        return num_selected


def squared_distances(updates: KeptUpdates, names: Collection[str]) -> torch.Tensor:
    """||w_i − w_j||² over these tensors: float64, (updates, updates). What is no number is infinitely far."""
    distances = torch.zeros(len(updates), len(updates), dtype=torch.float64)
    for values in updates.columns(names):
        for node in range(len(updates)):
            distances[node] += (values - values[node]).square().sum(dim=1)
    return distances.nan_to_num(nan=torch.inf, posinf=torch.inf)


def _scores(distances: torch.Tensor, num_nearest: int) -> list[float]:
    others = distances.clone().fill_diagonal_(torch.inf)
    scores: list[float] = others.sort(dim=1).values[:, :num_nearest].sum(dim=1).tolist()
    return scores
