"""Fifty nodes, each a process of its own, that begin at once: all are found, and a round has an update of each.

It takes a minute and 15 GB of memory, so it runs with ``POLYCLINIC_SOAK=1`` only.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from polyclinic import Experiment
from polyclinic.datasets.baseline_plan import BaselinePlan
from polyclinic.federation.over_nats.researcher import NatsFederation
from polyclinic.federation.try_out import OPEN, TryOut
from polyclinic.node.database_registry import DatabaseRegistry
from polyclinic.node.node import Node
from tests.system.conftest import SOAK

pytestmark = pytest.mark.skipif(not SOAK, reason="takes a minute and 15 GB of memory; set POLYCLINIC_SOAK=1")

MANY = 50


def test_fifty_nodes_begin_at_once_and_train_together(tmp_path: Path) -> None:
    with TryOut(tmp_path, policy=OPEN) as tries:
        names = []
        for number in range(MANY):
            node = Node.create(tries.place, f"hospital-{number:02}")
            assert isinstance(node.registry, DatabaseRegistry)
            data = {"module": "fed_heart_disease", "center": number % 4, "options": {}}
            node.registry.add("federated", data, tags=["heart"], name="heart")
            names.append(node.node_id)
        tries.start_hub()
        me = tries.join_researcher("ada")
        for name in names:
            tries.join_node(name, [me])
        for name in names:
            tries.start_node(name, wait=False)
        for name in names:
            tries.wait_for_node(name)
        federation = NatsFederation(me)
        try:
            assert [node.node_id for node in federation.nodes()] == names
            made = Experiment(
                BaselinePlan,
                model_args={"dataset": "fed_heart_disease"},
                tags=["heart"],
                federation=federation,
                training_args={"batch_size": 16, "lr": 0.003, "num_updates": 1},
                round_limit=2,
                folder=tmp_path / "run",
                observers=[],
            )
            made.run()
        finally:
            federation.close()
        assert [record.nodes for record in made.records[1:]] == [tuple(names)] * 2
        assert not [failure for record in made.records for failure in record.failures]
