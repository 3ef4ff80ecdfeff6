"""A throw-away federation in one call, for notebooks: of a dataset's centers, or of datasets of one's own."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict

from polyclinic.errors import ConfigError, DatasetError
from polyclinic.federation.in_process import InProcessFederation
from polyclinic.federation.places import create_nodes
from polyclinic.federation.processes import ProcessFederation
from polyclinic.federation.stacked import StackedFederation
from polyclinic.node.dataset_kinds.kind import DatasetKind, Found
from polyclinic.node.node import Node
from polyclinic.node.registry import ListRegistry, RegisteredDataset
from polyclinic.node.workbenches import Workbenches

if TYPE_CHECKING:
    from torch.utils.data import Dataset


def simulate(
    data: str | Sequence[Any] | Mapping[str, Any],
    *,
    data_path: str | Path | None = None,
    tags: Sequence[str] = (),
    workers: int | None = None,
    stacked: bool = False,
    **options: Any,
) -> InProcessFederation:
    """Makes a federation that lives as long as the returned object.

    Args:
        data: a federated dataset's name (``"fed_heart_disease"``), one node a center; or torch datasets of one's own,
            one node each: a list, or a mapping by node name, of training datasets or of (train, test) pairs.
        data_path: raw or prepared data of the named dataset, where it needs any.
        tags: of all datasets; default: the dataset's name, or none.
        workers: worker processes, for a named dataset only; None: all nodes in this process.
        stacked: train the nodes' models together where the plan allows it, see `StackedFederation`.
        options: for the named dataset's class, for example ``flamby_compatible=True``.

    Returns:
        What goes in as ``Experiment(federation=…)``.

    Raises:
        ConfigError: no data, an argument that only fits a named dataset, or both workers and stacked.
        DatasetError: the data cannot be read.
    """
    if stacked and workers is not None:
        raise ConfigError("stacked nodes are trained in this process", to_do="leave out workers, or stacked")
    in_process = StackedFederation if stacked else InProcessFederation
    if isinstance(data, str):
        folder = Path(tempfile.mkdtemp(prefix="polyclinic-federation-"))
        try:
            path = None if data_path is None else Path(data_path)
            create_nodes(folder, data, data_path=path, tags=tags, options=options)
            federation = in_process.at(folder) if workers is None else ProcessFederation(folder, workers)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        weakref.finalize(federation, shutil.rmtree, folder, ignore_errors=True)
        return federation
    if data_path is not None or workers is not None or options:
        raise ConfigError(
            "data_path, workers and options are for a dataset that is given by its name",
            to_do="register your data at nodes (polyclinic node add-dataset) to use worker processes",
        )
    named = dict(data) if isinstance(data, Mapping) else {f"node {k}": part for k, part in enumerate(data)}
    if not named:
        raise ConfigError("a federation needs at least one dataset", to_do="give a list of torch datasets")
    benches = Workbenches()
    width = len(str(len(named) - 1))
    return in_process(
        Node(
            f"node-{number:0{width}}" if not isinstance(data, Mapping) else name,
            name,
            ListRegistry([in_memory(name, part, tuple(tags))]),
            workbenches=benches,
        )
        for number, (name, part) in enumerate(named.items())
    )


class _Objects(BaseModel):
    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    train: Any
    test: Any = None
    of_module: Any = None


class InMemory:
    """Torch datasets that live in this process only."""

    name: ClassVar[str] = "in memory"
    Params: type[_Objects] = _Objects

    def inspect(self, params: _Objects) -> Found:
        first = params.train[0]
        shape = tuple(first[0].shape) if isinstance(first, tuple | list) and hasattr(first[0], "shape") else ()
        test = 0 if params.test is None else len(params.test)
        return Found(num_train=len(params.train), num_test=test, shape=shape, fingerprint=str(id(params.train)))

    def load(self, params: _Objects, *, train: bool) -> Dataset[Any]:
        found: Dataset[Any] | None = params.train if train else params.test
        if found is None:
            raise DatasetError("this node has no test data", to_do="give (train, test) pairs to simulate()")
        return found

    def paths(self, params: _Objects) -> tuple[Path, ...]:  # noqa: ARG002
        return ()

    def changed(self, params: _Objects, fingerprint: str, *, glance: bool = False) -> str | None:  # noqa: ARG002
        return None

    def module(self, params: _Objects) -> ModuleType | None:
        found: ModuleType | None = params.of_module
        return found


def in_memory(name: str, part: Any, tags: tuple[str, ...], module: ModuleType | None = None) -> RegisteredDataset:
    """A dataset of a throw-away node.

    Args:
        part: a training dataset, or a pair of a training and a test dataset; None in its place: no test data.
        module: the federated dataset's module whose metric and ``collate_fn`` it takes; None: torch's own way.

    Raises:
        DatasetError: the training data are empty, or have no length.
    """
    is_pair = isinstance(part, tuple | list) and len(part) == 2 and _is_data(part[0])
    is_pair = is_pair and (part[1] is None or _is_data(part[1]))
    train, test = part if is_pair else (part, None)
    params = _Objects(train=train, test=test, of_module=module)
    if not hasattr(params.train, "__len__") or not len(params.train):
        raise DatasetError(f"the training data of {name} are empty, or have no length", to_do="give torch datasets")
    kind = InMemory()
    return RegisteredDataset("data", name, tags, cast("DatasetKind", kind), params, kind.inspect(params))


def _is_data(value: Any) -> bool:
    return hasattr(value, "__getitem__")
