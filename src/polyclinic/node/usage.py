"""How much each researcher has used of each dataset, kept in the node's database."""

from __future__ import annotations

from sqlalchemy import Engine

from polyclinic.node.rules import Usage


class UsageAccount:
    """The account of a node. What was added is in the database after `flush`; a request counts once.

    Args:
        engine: of the node's database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def used(self, researcher_id: str, dataset_id: str) -> Usage:
        """All until now, with what is not flushed yet."""
        raise NotImplementedError

    def add(self, researcher_id: str, dataset_id: str, request_id: str, *, rounds: int, seconds: float) -> None:
        """Adds what a request has used; a request that was added before is not added again."""
        raise NotImplementedError

    def flush(self) -> None:
        """Writes what was added since, in one transaction."""
        raise NotImplementedError
