"""Krum: the model of the one node that lies closest to others.

It is `MultiKrum` with m = 1; see there for the score. A single node's model has learned from that node's data alone, so
Krum is for the case in which protection matters more than accuracy.

Blanchard et al., Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent, NeurIPS 2017,
arXiv:1703.02757, section 4. Differs as `MultiKrum` does.
"""

from __future__ import annotations

from typing import Any

from polyclinic.aggregators.multi_krum import MultiKrum


class Krum(MultiKrum):
    """Takes the model of the node that lies closest to others; keeps all updates of a round in memory.

    Args:
        num_hostile: f, at least 0. A round needs 2 f + 3 nodes.

    Raises:
        ConfigError: for a number that is negative or not whole.
    """

    def __init__(self, num_hostile: int) -> None:
        super().__init__(num_hostile, num_selected=1)

    @property
    def settings(self) -> dict[str, Any]:
        return {"num_hostile": self.num_hostile}
