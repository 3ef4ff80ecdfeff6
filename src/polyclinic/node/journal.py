"""The journal of a node: what was asked, decided and done, in a table that is only ever added to.

Each row holds the hash of the row before it, so that no row can be changed, taken out, put in or moved without all
later ones being wrong; once a day the node's key signs the last hash. `journal_check.py` looks at all of it.

A row's *line* is the JSON text

::

    {"number":7,"time":"2026-11-24T12:18:32.123456Z","kind":"…","facts":{…},"previous":"<hash of row 6>"}

without blanks, the facts sorted by name, and its hash is the SHA-256 of exactly these bytes. The first row's
``previous`` is 64 zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from sqlalchemy import Engine

from polyclinic.node.journal_facts import KINDS


class Journal:
    """The journal of one node. Other programs may write to the same one at the same time.

    Args:
        engine: of the node's database.
        signer: signs with the node's key; None: the node has not joined a hub, and rows stay unsigned.
        folder: the node's own, where the head is noted outside of the database; None: it is not noted.
    """

    def __init__(
        self, engine: Engine, signer: Callable[[bytes], bytes] | None = None, *, folder: Path | None = None
    ) -> None:
        self._engine = engine
        self._signer = signer
        self._folder = folder
        self._buffer: list[tuple[str, str, str]] = []

    def write(self, kind: str, **facts: Any) -> None:
        """Notes a row; `flush` makes it last. May be called from any thread.

        Args:
            facts: as `journal_facts` has them for this kind.

        Raises:
            TypeError: for an unknown kind, or facts that it does not have. What was given is not shown.
        """
        if kind not in KINDS:
            raise TypeError(f"the journal has no rows of kind {kind!r}; known: {', '.join(KINDS)}")
        try:
            KINDS[kind].model_validate(facts)
        except ValidationError as err:
            wrong = ", ".join(".".join(map(str, part["loc"])) + ": " + part["type"] for part in err.errors())
            raise TypeError(f"facts that rows of kind {kind!r} do not have so: {wrong}") from None

    def flush(self) -> None:
        """Writes all that was noted, in one transaction that outlasts a power cut.

        Raises:
            NodeError: the disk is full, or the database cannot be reached. Nothing is lost: the next flush tries again.
        """
