"""What every kind of dataset can do, what it reports, and where to find each kind."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, cast

import pydantic

from polyclinic.errors import ConfigError, nearest

if TYPE_CHECKING:
    from torch.utils.data import Dataset


class Found(pydantic.BaseModel):
    """What was found in a dataset: counts and names, never a value of a patient.

    The node keeps it in its database. The fingerprint stays there: it has a digest of the content, with which a
    guess at a small table could be checked.
    """

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    num_train: int
    num_test: int
    features: tuple[str, ...] = ()  # column names after one-hot, or () for images
    shape: tuple[int, ...] = ()  # of one sample's input
    target: str = ""  # readable: "num (numeric, 5 distinct integer values)"
    classes: tuple[str, ...] = ()  # class names, if the target is a class
    metric: str = ""  # the name of the dataset's own metric, if it brings one
    missing: dict[str, int] = {}  # column -> missing cells, only columns that have any
    notes: tuple[str, ...] = ()  # what a data manager should know, one sentence each
    fingerprint: str  # changes when the data change


class DatasetKind(Protocol):
    """One way in which data lie at a hospital: how to check them, load them, and see that they changed.

    ``params`` is always an instance of the kind's own ``Params``.
    """

    name: ClassVar[str]
    Params: type[pydantic.BaseModel]

    def inspect(self, params: Any) -> Found:
        """Reads everything and validates it. Raises DatasetError, which names columns and counts."""

    def load(self, params: Any, *, train: bool) -> Dataset[Any]:
        """The train or the test part, as tuples whose last entry is the target."""

    def paths(self, params: Any) -> tuple[Path, ...]:
        """What must exist for the data to be there."""

    def changed(self, params: Any, fingerprint: str, *, glance: bool = False) -> str | None:
        """None, or a sentence that says what changed or vanished since ``inspect`` gave this fingerprint.

        Cheap while nothing is touched: sizes and times first, contents only if these differ.

        Args:
            glance: look at single files only, not at what is in folders, which may hold any number of files.
        """

    def module(self, params: Any) -> ModuleType | None:
        """The dataset's own module, with its metric and collate_fn; None for all kinds but ``federated``."""


class _Kinds(Mapping[str, DatasetKind]):
    """The known kinds by name; a kind's module is imported when it is first asked for."""

    _WHERE = MappingProxyType(
        {
            "federated": "polyclinic.node.dataset_kinds.federated:Federated",
            "images": "polyclinic.node.dataset_kinds.images:Images",
            "python": "polyclinic.node.dataset_kinds.python:Python",
            "tabular": "polyclinic.node.dataset_kinds.tabular:Tabular",
        }
    )

    def __getitem__(self, name: str) -> DatasetKind:
        module, _, kind = self._WHERE[name].partition(":")
        return cast("DatasetKind", getattr(importlib.import_module(module), kind)())

    def __contains__(self, name: object) -> bool:
        return name in self._WHERE

    def __iter__(self) -> Iterator[str]:
        return iter(self._WHERE)

    def __len__(self) -> int:
        return len(self._WHERE)


KINDS: Mapping[str, DatasetKind] = _Kinds()


def get_kind(name: str) -> DatasetKind:
    """The kind of this name. Raises ConfigError with the nearest known one."""
    if name not in KINDS:
        raise ConfigError(f"unknown kind of dataset {name!r}", to_do=nearest(name, KINDS))
    return KINDS[name]
