"""The journal of a node, with the key that signs it: that by which the node is known at its hub."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from polyclinic.node.journal import Journal
from polyclinic.node.journal_check import IsSigned
from polyclinic.node.node import Node

if TYPE_CHECKING:
    from polyclinic.federation.over_nats.trust import Trust


def journal_of(node: Node) -> Journal:
    """The journal, for commands of the data manager.

    It is signed if the node has joined a hub; the key is written down before its first signature.

    Raises:
        NodeError: the database cannot be reached, or does not take it.
    """
    assert node.folder is not None
    assert node.engine is not None
    # Where the libraries of a federation are not installed, no hub was joined.
    with suppress(ModuleNotFoundError):
        from polyclinic.federation.over_nats.identity import IDENTITY, Identity, node_identity_folder

        folder = node_identity_folder(node.folder)
        if (folder / IDENTITY).exists():
            me = Identity.load(folder)
            journal = Journal(node.engine, me.keys.sign, folder=node.folder)
            journal.note_key(me.keys.public_key, hub=me.hub_name)
            return journal
    return Journal(node.engine, folder=node.folder)


def note_trust(journal: Journal, before: Trust, after: Trust, *, by: str) -> None:
    """Writes down what is different in a trust list.

    Args:
        by: who said so: a login, or "hub".

    Raises:
        NodeError: the database cannot be reached, or does not take it.
    """
    for researcher, key in after.keys.items():
        if before.keys.get(researcher) != key:
            journal.write("trust", action="trusted", researcher=researcher, key=key, by=by)
    for researcher in before.keys.keys() - after.keys.keys():
        journal.write("trust", action="removed", researcher=researcher, key=before.keys[researcher], by=by)
    if before.everyone != after.everyone:
        journal.write("trust", action="everyone" if after.everyone else "not-everyone", by=by)
    journal.flush()


def signature_check() -> IsSigned | None:
    """What checks the signatures; None: the library for it is not installed."""
    with suppress(ModuleNotFoundError):
        from polyclinic.federation.over_nats.identity import is_signed

        return is_signed
    return None
