"""Running a cell's experiment, and judging its model at some rounds on the way."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from polyclinic.benchmark.cells import Diverged, Measured
from polyclinic.errors import Diverged as NotFinite
from polyclinic.errors import RoundFailed
from polyclinic.experiment.experiment import Experiment
from polyclinic.experiment.observers import Observer
from polyclinic.experiment.record import RoundRecord

# Parameters. A run folder holds three models, and the aggregator's state with each.
_SMALL = 1_000_000

Judge = Callable[[int, int], list[Measured]]


def curve_rounds(last: int, points: int) -> set[int]:
    """About so many rounds, evenly spread, the last one among them."""
    if not points:
        return {last}
    every = max(1, -(-last // points))
    return {*range(every, last + 1, every), last}


class Curve(Observer):
    """Judges the model after the rounds named.

    Args:
        judge: called with the round and the bytes moved so far.
        rounds: after which.
        stop: asked after each; a sentence ends the run.
    """

    def __init__(self, judge: Judge, rounds: Collection[int], stop: Callable[[], str | None] = lambda: None) -> None:
        self.figures: list[Measured] = []
        self._judge, self._rounds, self._stop, self._bytes = judge, rounds, stop, 0

    def round_ended(self, *, record: RoundRecord, **_: Any) -> str | None:
        self._bytes += sum(row.bytes for row in record.rows)
        if record.round not in self._rounds:
            return None
        try:
            self.figures += self._judge(record.round, self._bytes)
        except NotFinite as err:
            raise Diverged(record.round, err.what, self.figures) from err
        return self._stop()


def run_to_the_end(experiment: Experiment, curve: Curve) -> None:
    """Runs all rounds; the run folder, which nobody needs afterwards, goes.

    Raises:
        Diverged: training became not finite; names the round.
        RoundFailed: nodes failed otherwise.
    """
    try:
        experiment.run()
    except RoundFailed as err:
        if NotFinite.code in err.codes:
            raise Diverged(experiment.round + 1, err.what, curve.figures) from err
        raise
    finally:
        shutil.rmtree(experiment.run_folder.parent, ignore_errors=True)


def scratch_folder(num_parameters: int) -> Path:
    """A new folder for a run that nobody needs afterwards: in memory for small models, where files cost no waiting."""
    memory = Path("/dev/shm")
    fits = num_parameters < _SMALL and memory.is_dir() and os.access(memory, os.W_OK)
    return Path(tempfile.mkdtemp(prefix="polyclinic-cell-", dir=memory if fits else None)) / "run"


def training_seconds(experiment: Experiment) -> float:
    """What the nodes say they spent in local training."""
    return sum(row.seconds for record in experiment.records for row in record.rows if row.split == "train")
