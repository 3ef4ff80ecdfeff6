"""The journal of a node, with the key that signs it: that by which the node is known at its hub."""

from __future__ import annotations

from contextlib import suppress

from polyclinic.node.journal import Journal
from polyclinic.node.journal_check import IsSigned
from polyclinic.node.node import Node


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


def signature_check() -> IsSigned | None:
    """What checks the signatures; None: the library for it is not installed."""
    with suppress(ModuleNotFoundError):
        from polyclinic.federation.over_nats.identity import is_signed

        return is_signed
    return None
