"""The datasets that a node has registered."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import BaseModel, ValidationError
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from polyclinic.errors import ConfigError, DatasetChanged, DatasetError, NodeError, nearest, reject_unknown
from polyclinic.messages.replies import DatasetInfo
from polyclinic.node.database import DatasetRow
from polyclinic.node.dataset_kinds.kind import DatasetKind, Found, get_kind
from polyclinic.node.journal import Journal, login

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


class DatabaseRegistry:
    """Datasets of a node with a folder, kept in its database. What comes and goes is written in its journal.

    Args:
        folder: the node's own, see `Journal`.
    """

    def __init__(self, engine: Engine, folder: Path | None = None) -> None:
        self._engine = engine
        self._folder = folder

    def datasets(self) -> list[RegisteredDataset]:
        with Session(self._engine) as session:
            return [_registered(row) for row in session.scalars(select(DatasetRow).order_by(DatasetRow.dataset_id))]

    def add(self, kind_name: str, options: Mapping[str, Any], *, tags: Iterable[str], name: str) -> RegisteredDataset:
        """Reads and checks a dataset, and registers it.

        Raises:
            ConfigError: unknown kind or option, no tags, or the name is taken.
            DatasetError: the data cannot be read, or do not fit what was declared.
        """
        kind = get_kind(kind_name)
        params = parse_params(kind, options)
        if isinstance(tags, str):
            raise ConfigError(f"tags is a list, got the text {tags!r}", to_do=f"write tags=[{tags!r}]")
        tags = tuple(sorted({tag.strip() for tag in tags} - {""}))
        if not tags:
            raise ConfigError("a dataset needs at least one tag", to_do="give --tags, for example --tags heart")
        dataset_id = identifier(name)
        with Session(self._engine) as session:
            if session.get(DatasetRow, dataset_id):
                raise ConfigError(
                    f"this node has a dataset named {name!r} already",
                    to_do="choose another name, or remove that one first",
                )
            found = kind.inspect(params)
            row = DatasetRow(
                dataset_id=dataset_id,
                name=name,
                dataset_kind=kind_name,
                tags=list(tags),
                params=params.model_dump(mode="json"),
                found=found.model_dump(mode="json"),
            )
            session.add(row)
            session.commit()
            added = _registered(row)
        self._note("added", dataset_id, kind_name, train=added.found.num_train, test=added.found.num_test)
        return added

    def remove(self, dataset_id: str) -> None:
        """Forgets a dataset; its files stay where they are.

        Raises:
            NodeError: if there is none of this id.
        """
        with Session(self._engine) as session:
            row = session.get(DatasetRow, dataset_id)
            if row is None:
                known = session.scalars(select(DatasetRow.dataset_id)).all()
                raise NodeError(f"this node has no dataset {dataset_id!r}", to_do=nearest(dataset_id, known))
            kind = row.dataset_kind
            session.delete(row)
            session.commit()
        self._note("removed", dataset_id, kind)

    def _note(self, action: str, dataset_id: str, kind: str, **counts: int) -> None:
        journal = Journal(self._engine, folder=self._folder)
        journal.write("dataset", action=action, dataset=dataset_id, dataset_kind=kind, by=login(), **counts)
        journal.flush()


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


def _registered(row: DatasetRow) -> RegisteredDataset:
    try:
        return RegisteredDataset.from_description(
            {
                "dataset_id": row.dataset_id,
                "name": row.name,
                "tags": row.tags,
                "kind": row.dataset_kind,
                "params": row.params,
                "found": row.found,
            }
        )
    except (ConfigError, ValidationError) as err:
        raise DatasetError(
            f"dataset {row.name!r} was registered by another version of Polyclinic",
            to_do="remove it from the node and register it again",
        ) from err
