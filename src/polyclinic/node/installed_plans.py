"""Plans that come with the installation, which a data manager can approve in advance, by name and version."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from polyclinic.datasets.baseline_plan import BaselinePlan
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import ConfigError
from polyclinic.messages.requests import PlanText
from polyclinic.node.approvals import Approvals
from polyclinic.node.asked import Asked
from polyclinic.node.node import Node
from polyclinic.plans.source import extract_source

_ROUNDS = 1000


def approve_baseline(
    node: Node,
    name: str,
    datasets: Sequence[str] = (),
    *,
    rounds: int | None = None,
    until: datetime | None = None,
    note: str = "",
) -> Asked:
    """Approves the baseline plan of a federated dataset for every trusted researcher, with whatever training_args.

    Args:
        name: for example "fed_heart_disease".
        datasets: ids at the node; default: those that were made by this module.
        rounds: in all; default: 1000.
        until: see `Approvals.approve`.

    Raises:
        ConfigError: there is no such federated dataset, or the node has none made by it.
    """
    FederatedDataset.load(name)
    there = [d.dataset_id for d in node.registry.datasets() if getattr(d.params, "module", "") == name]
    if not (datasets or there):
        raise ConfigError(
            f"node {node.name!r} has no dataset made by {name}", to_do="say which one is meant: --dataset ID"
        )
    source = extract_source(BaselinePlan)
    plan = PlanText(text=source.text, class_name=source.class_name)
    assert node.engine is not None
    return Approvals(node.engine).approve_installed(
        plan, {"model_args": {"dataset": name}}, datasets or there, rounds=rounds or _ROUNDS, until=until, note=note
    )
