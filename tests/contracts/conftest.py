"""The federations that the contract suite runs on.

Another implementation joins by one more entry in `_MAKERS`: a function that makes it of the same four hospitals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.utils.data import TensorDataset

from polyclinic import Federation, InProcessFederation, ProcessFederation, simulate
from polyclinic.federation.over_nats.researcher import NatsFederation
from polyclinic.federation.places import create_nodes
from polyclinic.federation.try_out import OPEN, TryOut


@dataclass(frozen=True)
class Kit:
    """A federation of four nodes, each with one dataset with the tag ``contract`` and 13 features."""

    federation: Federation
    isolated: bool  # whether nodes work in processes of their own, which may die or hang
    has_folders: bool  # whether nodes keep something that a second program could use


def _four_tables(_stack: ExitStack, _folder: Path, *, stacked: bool = False) -> Kit:
    generator = torch.Generator().manual_seed(5)

    def part(rows: int) -> TensorDataset:
        x = torch.randn(rows, 13, generator=generator)
        return TensorDataset(x, (x.sum(1, keepdim=True) > 0).float())

    tables = {name: (part(60), part(30)) for name in ("north", "east", "south", "west")}
    return Kit(simulate(tables, tags=["contract"], stacked=stacked), isolated=False, has_folders=False)


def _in_process(_stack: ExitStack, folder: Path) -> Kit:
    create_nodes(folder, "fed_heart_disease", tags=["contract", "heart"])
    return Kit(InProcessFederation.at(folder), isolated=False, has_folders=True)


def _in_worker_processes(stack: ExitStack, folder: Path) -> Kit:
    create_nodes(folder, "fed_heart_disease", tags=["contract", "heart"])
    federation = ProcessFederation(folder, workers=2)
    stack.callback(federation.close)
    return Kit(federation, isolated=True, has_folders=True)


def _stacked(stack: ExitStack, folder: Path) -> Kit:
    return _four_tables(stack, folder, stacked=True)


def _at_hospitals(stack: ExitStack, folder: Path) -> Kit:
    """A hub and four nodes, each a process of its own, that speak over TLS."""
    hospitals = stack.enter_context(TryOut(folder, policy=OPEN))
    names = [node.node_id for node in create_nodes(hospitals.place, "fed_heart_disease", tags=["contract", "heart"])]
    hospitals.start_hub()
    researcher = hospitals.join_researcher("ada")
    for name in names:
        hospitals.join_node(name, [researcher])
        hospitals.start_node(name, wait=False)
    for name in names:
        hospitals.wait_for_node(name)
    federation = NatsFederation(researcher)
    stack.callback(federation.close)
    return Kit(federation, isolated=True, has_folders=False)


_MAKERS: dict[str, Callable[[ExitStack, Path], Kit]] = {
    "datasets in memory": _four_tables,
    "node folders": _in_process,
    "stacked": _stacked,
    "worker processes": _in_worker_processes,
    "hospitals": _at_hospitals,
}


@pytest.fixture(scope="module", params=_MAKERS, ids=lambda name: name.replace(" ", "-"))
def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kit]:
    """One federation for all tests of a module: whatever one test does to it, the next one must find it usable."""
    with ExitStack() as stack:
        yield _MAKERS[request.param](stack, tmp_path_factory.mktemp("nodes"))
