"""What a hospital allows: ``policy.toml`` in the node's folder, read strictly.

A file that is wrong in any way is never replaced by defaults: the node refuses all work until it is mended.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

POLICY_FILE = "policy.toml"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Leaves(_Part):
    """What may leave the hospital."""

    parameters: bool = True
    metrics: tuple[str, ...] | None = None
    losses: bool = True
    logs: bool = True
    tracebacks: bool = False


class Resources(_Part):
    """The limits of the sandbox that plans run in."""

    memory_gb: float = 16.0
    cpu_cores: float | None = None
    processes: int = 64
    open_files: int = 1024
    file_gb: float = 8.0
    wall_hours: float = 24.0
    output_mb: float = 10.0


class Policy(_Part):
    """A node's policy.

    Args:
        digest: SHA-256 of the file, hexadecimal; of nothing where there is no file.
    """

    digest: str
    approval: Literal["required", "off"] = "required"
    sandbox: Literal["bubblewrap", "limits-only"] = "bubblewrap"
    leaves: Leaves = Leaves()
    resources: Resources = Resources()

    @classmethod
    def load(cls, folder: Path) -> Policy:
        """The policy of the node in this folder; the defaults where there is no file.

        Raises:
            PolicyInvalid: the file is unreadable, or others than its owner may write it, or what it says is unknown.
        """
        raise NotImplementedError


class PolicyFile:
    """A node's policy that follows its file.

    Args:
        folder: the node's.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def current(self) -> Policy:
        """As the file is now; it is read again only when it has changed.

        Raises:
            PolicyInvalid: see `Policy.load`; until the file is mended.
        """
        raise NotImplementedError
