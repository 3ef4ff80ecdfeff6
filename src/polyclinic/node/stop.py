"""How a training is told to stop: between two batches, because of a cancel or a deadline."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from polyclinic.errors import Cancelled, DeadlinePassed


@dataclass
class Stop:
    """Asked before every batch.

    Args:
        deadline: on the clock of `time.monotonic`, in seconds; None: no deadline.
    """

    deadline: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)

    def check(self) -> None:
        """Raises Cancelled, or DeadlinePassed if the deadline has passed."""
        if self.cancelled.is_set():
            raise Cancelled("the training was stopped on request", to_do="run the experiment on when you like")
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlinePassed(
                "the round's deadline passed before this node was done",
                to_do="raise deadline_seconds, lower epochs or num_updates, or lower min_nodes to go on without it",
            )
