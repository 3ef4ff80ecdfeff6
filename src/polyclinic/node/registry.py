"""The datasets that a node has registered."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ValidationError

from polyclinic.errors import ConfigError, DatasetChanged, reject_unknown
from polyclinic.messages.replies import DatasetInfo
from polyclinic.node.dataset_kinds.kind import DatasetKind, Found, get_kind

if TYPE_CHECKING:
    from torch.utils.data import Dataset


@dataclass(frozen=True)
class RegisteredDataset:
    """A dataset with its tags, and what was found when it was registered."""

    dataset_id: str
    name: str
    tags: tuple[str, ...]
    kind: DatasetKind
    params: BaseModel
    found: Found

    def described(self) -> dict[str, Any]:
        """All of it as JSON, for a process that sees no database (`from_description`)."""
        return {
            "dataset_id": self.dataset_id,
            "name": self.name,
            "tags": list(self.tags),
            "kind": self.kind.name,
            "params": self.params.model_dump(mode="json"),
            "found": self.found.model_dump(mode="json"),
        }

    @classmethod
    def from_description(cls, described: Mapping[str, Any]) -> RegisteredDataset:
        """What was `described`.

        Raises:
            ConfigError, ValidationError: by another version.
        """
        kind = get_kind(described["kind"])
        return cls(
            dataset_id=described["dataset_id"],
            name=described["name"],
            tags=tuple(described["tags"]),
            kind=kind,
            params=kind.Params.model_validate(described["params"]),
            found=Found.model_validate(described["found"]),
        )

    def load(self, *, train: bool) -> Dataset[Any]:
        """The torch dataset of the training or the test part."""
        return self.kind.load(self.params, train=train)

    def problem(self) -> str:
        """Why the data cannot be used now: a sentence, or empty if they are as they were registered."""
        return self.kind.changed(self.params, self.found.fingerprint) or ""

    def require_unchanged(self) -> None:
        """A glance before each use. Single files are compared with what they were; of folders, which may hold any
        number of files, it is only asked whether they are there.

        Raises:
            DatasetChanged: if it has vanished, or a file of it is another one.
        """
        for path in self.kind.paths(self.params):
            if not path.exists():
                raise self.has_changed(f"{path} is not there any more")
        if problem := self.kind.changed(self.params, self.found.fingerprint, glance=True):
            raise self.has_changed(problem)

    def has_changed(self, how: str) -> DatasetChanged:
        """The error that says so.

        Args:
            how: a sentence.
        """
        return DatasetChanged(
            f"dataset {self.name!r} is not as it was registered: {how}",
            to_do="put the data back, or register the dataset again at this node; then run the experiment on",
        )

    def info(self) -> DatasetInfo:
        """What researchers see of it."""
        return DatasetInfo(
            dataset_id=self.dataset_id,
            name=self.name,
            dataset_kind=self.kind.name,
            tags=self.tags,
            num_train=self.found.num_train,
            num_test=self.found.num_test,
            shape=self.found.shape,
            features=self.found.features,
            classes=self.found.classes,
            problem=self.problem(),
        )


class Registry(Protocol):
    """Where a node's datasets are listed."""

    def datasets(self) -> list[RegisteredDataset]:
        """All of them, by id."""


class ListRegistry:
    """Datasets of a throw-away node, kept in memory."""

    def __init__(self, datasets: Iterable[RegisteredDataset]) -> None:
        self._datasets = list(datasets)

    def datasets(self) -> list[RegisteredDataset]:
        return self._datasets


def parse_params(kind: DatasetKind, options: Mapping[str, Any]) -> BaseModel:
    """The kind's parameters from options by name.

    Raises:
        ConfigError: naming the option.
    """
    reject_unknown(options, kind.Params.model_fields, kind=f"option of {kind.name} datasets")
    try:
        return kind.Params.model_validate(dict(options))
    except ValidationError as err:
        first = err.errors(include_url=False)[0]
        option = ".".join(str(part) for part in first["loc"]) or kind.name
        raise ConfigError(f"option {option!r} of a {kind.name} dataset: {first['msg']}") from None


def identifier(name: str) -> str:
    """A short id for a name: ``"Guy's Hospital"`` -> ``"guy-s-hospital"``.

    Ids are plain ASCII, because they name folders. Where a letter has no such spelling (``"北京医院"``), a digest of
    the name keeps the ids of different names apart.

    Raises:
        ConfigError: if no letter or digit is in the name.
    """
    letters = unicodedata.normalize("NFKD", name).casefold()
    words = re.sub(r"[\W_]+", "-", "".join(c for c in letters if not unicodedata.combining(c))).strip("-")
    if not words:
        raise ConfigError(f"the name {name!r} has no letter or digit", to_do="choose a name with some")
    found = re.sub(r"[^a-z0-9]+", "-", re.sub(r"[^a-z0-9-]", "", words)).strip("-")[:60]
    if words.isascii():
        return found
    return f"{found or 'id'}-{hashlib.blake2b(words.encode(), digest_size=4).hexdigest()}"
