"""What a researcher sees of a hub's nodes: who is there, at what, with which data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import polyclinic
from polyclinic.federation.over_nats.directory import KnownNode
from polyclinic.messages.replies import DatasetInfo
from polyclinic.messages.version import VERSION

COLUMNS = ("node", "state", "dataset", "tags", "train", "test")


@dataclass(frozen=True)
class Overview:
    """One row for each dataset of each node, and what is to be said besides.

    Args:
        rows: texts, in the order of `COLUMNS`.
        remarks: sentences on datasets that have changed, and on nodes of other versions.
    """

    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...]


def overview(nodes: Mapping[str, KnownNode]) -> Overview:
    """The nodes by id, as they are known now."""
    rows: list[tuple[str, ...]] = []
    remarks: list[str] = []
    for node_id, node in sorted(nodes.items()):
        found = node.found_datasets()
        rows += _rows(node_id, node, found)
        remarks += [f"{node_id}, {one.name}: {one.problem}" for one in found if one.problem]
        if (theirs := node.versions.get("messages", VERSION)) != VERSION:
            remarks.append(
                f"{node_id} has Polyclinic {node.versions.get('polyclinic', '(unknown)')} and messages of version "
                f"{theirs}; here they are {polyclinic.__version__} and {VERSION}"
            )
    return Overview(tuple(rows), tuple(remarks))


def _rows(node_id: str, node: KnownNode, found: list[DatasetInfo]) -> Iterator[tuple[str, ...]]:
    first = (node_id, node.describe())
    if not found:
        yield (*first, "(none)", "", "", "")
    for one in found:
        yield (*first, one.name, ", ".join(one.tags), str(one.num_train), str(one.num_test))
        first = ("", "")
