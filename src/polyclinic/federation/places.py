"""Where the nodes of this machine have their folders, and how a federation is made of a dataset's centers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import platformdirs

from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import NodeError
from polyclinic.federation.federation import Federation
from polyclinic.federation.in_process import InProcessFederation
from polyclinic.node.database import is_node_folder, node_folders
from polyclinic.node.database_registry import DatabaseRegistry
from polyclinic.node.node import Node
from polyclinic.node.registry import identifier

PLACE_VARIABLE = "POLYCLINIC_FEDERATION"

_open: dict[Path, InProcessFederation] = {}
_open_hubs: dict[Path, Federation] = {}


def default_place() -> Path:
    """The folder of the nodes' folders: ``POLYCLINIC_FEDERATION``, or one in the user's data folder."""
    if chosen := os.environ.get(PLACE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    return platformdirs.user_data_path("polyclinic") / "federation"


def local_federation(place: Path | None = None) -> InProcessFederation:
    """The nodes at a place, in this process: one object a place, so that experiments share what is loaded.

    Raises:
        FederationError: if there are no nodes.
    """
    place = place or default_place()
    known = _open.get(place)
    folders = set(node_folders(place))
    if known is None or {node.folder for node in known.each_node()} != folders:
        _open[place] = InProcessFederation.at(place)
    return _open[place]


def default_federation() -> Federation:
    """Where experiments look for nodes if they are not told: at the hub of ``polyclinic federation use``,
    if one is chosen, or else at this machine. One object a hub or place.

    Raises:
        FederationError: there are no nodes on this machine, or the hub's identity cannot be read.
    """
    place = default_place()
    if not (place / ".hubs").is_dir():
        return local_federation(place)
    from polyclinic.federation.over_nats.identity import chosen_hub_folder
    from polyclinic.federation.over_nats.researcher import NatsFederation

    folder = chosen_hub_folder(place)
    if folder is None:
        return local_federation(place)
    if folder not in _open_hubs:
        _open_hubs[folder] = NatsFederation(folder)
    return _open_hubs[folder]


def create_nodes(
    place: Path,
    dataset_name: str,
    *,
    data_path: Path | None = None,
    tags: Sequence[str] = (),
    centers: Iterable[int | str] | None = None,
    options: dict[str, Any] | None = None,
) -> list[Node]:
    """Makes one node for each center of a federated dataset, with the center's data registered.

    Args:
        place: the folder to make the nodes' folders in.
        dataset_name: ``fed_heart_disease``, any module with a federated dataset's names, or the path of a
            ``split.json`` with artificial centers.
        data_path: raw or prepared data; None for datasets that bring their own.
        tags: default: the dataset's name.
        centers: numbers or names; default: all.
        options: for the dataset's class, for example ``{"flamby_compatible": True}``.

    Raises:
        NodeError: one of the nodes exists already.
        DatasetError: the data cannot be read. No node is left behind then.
    """
    dataset = FederatedDataset.load(dataset_name)
    options = options or {}
    known = dataset.centers_at(data_path)
    numbers = range(len(known)) if centers is None else [dataset.center_index(c, data_path) for c in centers]
    names = {number: known[number] for number in numbers}
    for name in names.values():
        if is_node_folder(place / identifier(name)):
            raise NodeError(
                f"there is a node {identifier(name)!r} at {place} already",
                to_do="see what is there with: polyclinic federation show; remove it with: "
                "polyclinic federation remove; or choose another place with --at",
            )
    path = dataset.ensure_prepared(data_path, **options)
    made: list[Node] = []
    try:
        for number, name in names.items():
            node = Node.create(place, name)
            made.append(node)
            given = {"module": dataset.load_name, "center": number, "options": options} | (
                {"path": path} if path else {}
            )
            assert isinstance(node.registry, DatabaseRegistry)
            node.registry.add("federated", given, tags=tags or [dataset.name], name=f"{dataset.name} {name}")
    except BaseException:
        for node in made:
            remove_node(node)
        raise
    return made


def remove_node(node: Node) -> None:
    """Deletes a node's folder; the data that it had registered stay where they are.

    Raises:
        NodeInUse: if a program works with it.
    """
    assert node.folder is not None
    with node.in_use():
        shutil.rmtree(node.folder)
