"""Whom a node works for: the researchers that its data manager has said yes to, each with their public key.

The list is a file in the node's folder, so that nobody but the data manager changes it; the hub has no part in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from polyclinic.errors import NodeError
from polyclinic.federation.over_nats.identity import node_identity_folder, raw_public_key

TRUST = "trusted.json"


@dataclass(frozen=True)
class Trust:
    """A trust list.

    Args:
        keys: public keys, by the researcher's id.
        everyone: whoever the hub has let in as a researcher is trusted too, with the key that the hub names first.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    everyone: bool = False

    @classmethod
    def load(cls, node_folder: Path) -> Trust:
        """The node's list; at first nobody is on it.

        Raises:
            NodeError: the file is damaged. Nobody is trusted then.
        """
        path = node_identity_folder(node_folder) / TRUST
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            keys = {str(name): str(key) for name, key in content["researchers"].items()}
            return cls(keys, content["everyone"] is True)
        except FileNotFoundError:
            return cls()
        except (OSError, ValueError, KeyError, AttributeError, TypeError) as err:
            raise _unreadable(path, err) from None

    @staticmethod
    def version(node_folder: Path) -> tuple[int, ...]:
        """Another one whenever the list was saved: cheaper than reading it."""
        try:
            found = (node_identity_folder(node_folder) / TRUST).stat()
        except FileNotFoundError:
            return ()
        except OSError as err:
            raise _unreadable(node_identity_folder(node_folder) / TRUST, err) from None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def save(self, node_folder: Path) -> None:
        """Replaces the node's list, at once or not at all."""
        path = node_identity_folder(node_folder) / TRUST
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial = path.with_name(f"{path.name}.partial")
        content = {"everyone": self.everyone, "researchers": dict(self.keys)}
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)

    def plus(self, researcher_id: str, public_key: str) -> Trust:
        """With one more researcher, or a new key for one.

        Raises:
            MessageError: it is no public key.
        """
        raw_public_key(public_key)
        return Trust({**self.keys, researcher_id: public_key}, self.everyone)

    def without(self, researcher_id: str) -> Trust:
        """With one less."""
        return Trust({name: key for name, key in self.keys.items() if name != researcher_id}, self.everyone)

    def describe(self) -> list[str]:
        """Lines for a reader."""
        lines = [f"Trusted: {name}, public key {key}" for name, key in self.keys.items()]
        if self.everyone:
            lines.append("Trusted: whoever the hub lets in as a researcher")
        return lines or ["Trusted: nobody yet. polyclinic node trust NODE RESEARCHER"]


def _unreadable(path: Path, err: Exception) -> NodeError:
    return NodeError(
        f"the node's trust list {path} cannot be read: {err}",
        to_do="delete the file, and trust the researchers again: polyclinic node trust NODE RESEARCHER",
    )
