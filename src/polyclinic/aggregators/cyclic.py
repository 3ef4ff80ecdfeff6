"""Cyclic weight transfer: the model travels from node to node.

In each round one node trains the model and passes it on:  w <- theta_k  with k = order[(round - 1) mod K]. K rounds are
a cycle. The order is that of the node ids, or a new permutation in each cycle.

Chang et al., Distributed deep learning networks among institutions for medical imaging, JAMIA 2018,
doi:10.1093/jamia/ocy017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from polyclinic.aggregators.fed_average import FedAverage
from polyclinic.aggregators.settings import whole
from polyclinic.errors import ConfigError


class Cyclic(FedAverage):
    """One node a round trains the model and passes it on.

    With ``num_updates``, a node goes on in its data as if it had trained in the other nodes' rounds as well.

    Args:
        order: ``"fixed"`` (by node id) or ``"shuffled"`` (a new permutation each cycle).
        seed: of the permutations: cycle c has the c-th draw of ``numpy.random.default_rng(seed).permutation(K)``.

    Raises:
        ConfigError: for another order, or a seed that is no whole number of at least 0.
    """

    def __init__(self, *, order: Literal["fixed", "shuffled"] = "fixed", seed: int = 0) -> None:
        super().__init__(weights="uniform")
        if order not in ("fixed", "shuffled"):
            raise ConfigError(f"Cyclic: unknown order {order!r}", to_do='give "fixed" or "shuffled"')
        self.order = order
        self.seed = whole(self, "seed", seed, at_least=0, example=0)

    @property
    def settings(self) -> dict[str, Any]:
        return {"order": self.order, "seed": self.seed}

    def choose(self, round_index: int, node_ids: Sequence[str]) -> Sequence[str]:
        cycle, place = divmod(round_index - 1, len(node_ids))
        ordered = sorted(node_ids)
        if self.order == "shuffled":
            generator = np.random.default_rng(self.seed)
            for _ in range(cycle):
                generator.permutation(len(ordered))
            place = generator.permutation(len(ordered))[place]
        return [ordered[place]]
