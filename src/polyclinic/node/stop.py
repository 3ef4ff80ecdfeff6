"""How a training is told to stop, between two batches, because of a cancel or a deadline; and tells how far it is."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from polyclinic.errors import Cancelled, DeadlinePassed

# A reader does not see more, and a training of this length or less tells nothing.
TELL_EVERY_SECONDS = 0.25


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Args:
        batch: batches done in this pass of the round.
        num_batches: of the pass; 0: not known.
        loss: the mean over the batches done, to three digits, so that little is told of any single batch.
    """

    batch: int
    num_batches: int
    loss: float


@dataclass
class Stop:
    """Asked before every batch, and told after it.

    Args:
        deadline: on the clock of `time.monotonic`, in seconds; None: no deadline.
        told: called a few times a second with how far the training is; None: nobody wants to know.
    """

    deadline: float | None = None
    cancelled: threading.Event = field(default_factory=threading.Event)
    told: Callable[[Progress], None] | None = None
    _next: float = field(default_factory=lambda: time.monotonic() + TELL_EVERY_SECONDS)

    def check(self) -> None:
        """Raises Cancelled, or DeadlinePassed if the deadline has passed."""
        if self.cancelled.is_set():
            raise Cancelled("the training was stopped on request", to_do="run the experiment on when you like")
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise DeadlinePassed(
                "the round's deadline passed before this node was done",
                to_do="raise deadline_seconds, lower epochs or num_updates, or lower min_nodes to go on without it",
            )

    def after_batch(self, losses: Sequence[float], num_batches: int) -> None:
        """Tells how far the training is, if it is time to.

        Args:
            losses: of the batches done.
            num_batches: see `Progress`.
        """
        if self.told is None or (now := time.monotonic()) < self._next:
            return
        self._next = now + TELL_EVERY_SECONDS
        self.told(Progress(len(losses), num_batches, float(f"{statistics.fmean(losses):.3g}")))
