"""The datasets of a node with a folder, in its database. Apart from `registry`, so that a worker loads no database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Engine, Row, select
from sqlalchemy.orm import Session

from polyclinic.errors import ConfigError, DatasetError, NodeError, nearest
from polyclinic.node.database import Base, DatasetRow
from polyclinic.node.dataset_kinds.kind import get_kind
from polyclinic.node.journal import Journal, login
from polyclinic.node.registry import RegisteredDataset, identifier, parse_params

_table = Base.metadata.tables[DatasetRow.__tablename__]
# A node at work asks each round: rows without objects that could be changed, from a statement that is built once.
_ALL = select(_table).order_by(_table.c.dataset_id)


class DatabaseRegistry:
    """Datasets of a node with a folder, kept in its database. What comes and goes is written in its journal.

    Args:
        folder: the node's own, see `Journal`.
    """

    def __init__(self, engine: Engine, folder: Path | None = None) -> None:
        self._engine = engine
        self._folder = folder

    def datasets(self) -> list[RegisteredDataset]:
        with self._engine.connect() as connection:
            return [_registered(row) for row in connection.execute(_ALL)]

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


def _registered(row: DatasetRow | Row[Any]) -> RegisteredDataset:
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
