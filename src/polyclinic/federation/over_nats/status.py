"""What a running node tells of itself to the commands of its machine: a file in its folder."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

STATUS = "status.json"


@dataclass(frozen=True)
class Task:
    """What a node works on, or what waits for it.

    Args:
        state: as in `polyclinic.federation.node_state`.
        since: in seconds since 1970.
    """

    researcher: str
    experiment_id: str
    round: int
    kind: str
    state: str
    since: float

    @property
    def what(self) -> str:
        """What is asked, and by whom, for a reader."""
        what = f"{self.kind.partition('-')[0]} of experiment {self.experiment_id}, round {self.round}"
        return f"{what}, for {self.researcher}"

    def describe(self) -> str:
        """One line for a reader."""
        return f"{self.what}: {self.state}"


@dataclass(frozen=True)
class NodeStatus:
    """A running node.

    Args:
        started: in seconds since 1970.
        connected: whether the hub is reached.
        waiting: in the order in which they are taken.
    """

    pid: int
    started: float
    connected: bool
    task: Task | None
    waiting: tuple[Task, ...] = ()

    @property
    def queue(self) -> dict[str, int]:
        """How many requests wait, by researcher."""
        return dict(Counter(task.researcher for task in self.waiting))

    def write(self, node_folder: Path) -> None:
        """Replaces what was told before."""
        partial = node_folder / f"{STATUS}.partial"
        partial.write_text(json.dumps(asdict(self)), encoding="utf-8")
        partial.replace(node_folder / STATUS)

    @staticmethod
    def remove(node_folder: Path) -> None:
        """The node does not run any more."""
        (node_folder / STATUS).unlink(missing_ok=True)

    @classmethod
    def read(cls, node_folder: Path) -> NodeStatus | None:
        """What the node tells; None if it does not run."""
        try:
            content = json.loads((node_folder / STATUS).read_text(encoding="utf-8"))
            task = Task(**content.pop("task")) if content["task"] else content.pop("task")
            waiting = tuple(Task(**one) for one in content.pop("waiting"))
            status = cls(**content, task=task, waiting=waiting)
            os.kill(status.pid, 0)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return status
