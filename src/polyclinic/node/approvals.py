"""What a data manager has said yes to, and what waits for a word.

An approval binds the exact bytes of a plan's text, the researcher's key, the dataset, the arguments, the number of
rounds, and an end date. Whatever differs in any of them is a new request, and waits.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import Engine

from polyclinic.messages.requests import WorkRequest

State = Literal["pending", "approved", "rejected", "revoked"]
DEFAULT_TERM = timedelta(days=90)


@dataclass(frozen=True)
class Asked:
    """One thing that was asked for, and what was said to it. Times are in UTC.

    Args:
        id: short, to be typed.
        plan_sha256: of the plan's text and class name.
        researcher: their id; "*": of a plan that comes with the installation, every trusted researcher.
        key: their public key.
        rounds: asked for; None: not said.
        since: when it was first asked for.
        decided: when the data manager said a word.
        until: when an approval ends.
        used: rounds that were trained under the approval.
    """

    id: str
    state: State
    plan_sha256: str
    class_name: str
    researcher: str
    key: str
    datasets: tuple[str, ...]
    arguments: dict[str, Any]
    any_arguments: bool
    rounds: int | None
    used: int
    message: str
    since: datetime
    decided: datetime | None
    until: datetime | None
    note: str


class Approvals:
    """The approvals of a node.

    Args:
        engine: of the node's database. Other programs may write to it at the same time.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def look(self, researcher: str, key: str, request: WorkRequest) -> Asked:
        """What stands for this request: an approval that covers it, or else what waits or was refused; made if new."""
        raise NotImplementedError

    def all(self, state: State | None = None) -> list[Asked]:
        """What was asked for, the oldest first."""
        raise NotImplementedError

    def find(self, id: str) -> Asked:  # noqa: A002
        """What has this id, or an id that begins so.

        Raises:
            ConfigError: there is none; names the nearest.
        """
        raise NotImplementedError

    def text(self, plan_sha256: str) -> str:
        """The plan's text."""
        raise NotImplementedError
