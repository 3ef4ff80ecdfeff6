"""Who is told what happens in an experiment: progress bars, loggers, early stopping.

An observer overrides the hooks it likes. Hooks are called with keywords, and new ones may be added, so a hook takes
``**_`` for those it does not know.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyclinic import tensors
from polyclinic.errors import ConfigError
from polyclinic.experiment.record import POOLED, RoundRecord
from polyclinic.federation.node_state import NodeState
from polyclinic.messages.replies import Reply

if TYPE_CHECKING:
    from polyclinic.experiment.history import History


class Observer:
    """Empty hooks."""

    def run_started(self, *, name: str, first_round: int, last_round: int, run_folder: Path, **_: Any) -> None:
        """A run begins; the rounds it will do, counted from 1, ends included."""

    def approval_awaited(self, *, node: str, what: str, to_do: str, **_: Any) -> None:
        """The run waits for the data manager of a node; told once for each thing that is waited for."""

    def round_started(self, *, round: int, nodes: Sequence[str], **_: Any) -> None:  # noqa: A002
        """A round begins with these nodes."""

    def node_state(self, *, node: str, state: NodeState, **_: Any) -> None:
        """A node says what it is at, or is missed. For people to watch: none need ever come."""

    def node_replied(self, *, node: str, reply: Reply, **_: Any) -> None:
        """A node's reply was taken, in the order of node ids. Its tensors are only valid meanwhile."""

    def round_ended(self, *, record: RoundRecord, history: History, model: dict[str, Any], **_: Any) -> str | None:
        """A round is complete and on disk. A returned sentence ends the run, and is printed as the reason."""

    def run_ended(self, *, reason: str, **_: Any) -> None:
        """The run is over, by whatever reason."""


def tell(observers: Sequence[Observer], hook: str, **facts: Any) -> list[Any]:
    """Calls a hook of all observers, and returns what each returned."""
    return [getattr(observer, hook)(**facts) for observer in observers]


class EarlyStopping(Observer):
    """Ends a run when a figure has not got better for some rounds.

    It looks at the history only, so a resumed run stops where an uninterrupted one would.

    Args:
        metric: its name; the training loss needs no evaluation in the rounds, all others ``test_every`` in
            ``training_args``.
        split: "train" or "test".
        patience: evaluations without progress that are borne.
        min_delta: what counts as progress.
        higher_is_better: None: False for losses and errors, True for the rest.
    """

    def __init__(
        self,
        metric: str = "loss",
        split: str = "train",
        *,
        patience: int = 5,
        min_delta: float = 0.0,
        higher_is_better: bool | None = None,
    ) -> None:
        from polyclinic.metrics import find_metric

        if patience < 1:
            raise ConfigError(f"patience must be at least 1, got {patience}", to_do="give patience=5")
        self.metric, self.split, self.patience, self.min_delta = metric, split, patience, min_delta
        known = find_metric(metric)
        higher = known is None or known.higher_is_better
        self.sign = 1 if (higher if higher_is_better is None else higher_is_better) else -1

    def round_ended(self, *, history: History, **_: Any) -> str | None:
        series = history.series(self.metric, self.split)
        if POOLED in series:
            values = series[POOLED][1]
        else:
            by_round: dict[int, list[float]] = {}
            for rounds, of_node in series.values():
                for number, value in zip(rounds, of_node, strict=True):
                    by_round.setdefault(number, []).append(value)
            values = [sum(v) / len(v) for _, v in sorted(by_round.items())]
        best, since = float("-inf"), 0
        for value in values:
            if self.sign * value > best + self.min_delta:
                best, since = self.sign * value, 0
            else:
                since += 1
        if since < self.patience:
            return None
        return f"stopped early: {self.split} {self.metric} has not got better for {since} rounds"


class Checkpoint(Observer):
    """Writes the global model as a safetensors file each ``every`` rounds, to be used elsewhere.

    Args:
        folder: where to; default: ``checkpoints`` in the run folder.
        every: rounds between two files.
    """

    def __init__(self, folder: str | Path | None = None, *, every: int = 10) -> None:
        if every < 1:
            raise ConfigError(f"every must be at least 1, got {every}", to_do="give every=10")
        self._folder = None if folder is None else Path(folder)
        self._every = every

    def run_started(self, *, run_folder: Path, **_: Any) -> None:
        self._to = self._folder or run_folder / "checkpoints"

    def round_ended(self, *, record: RoundRecord, model: dict[str, Any], **_: Any) -> None:
        if record.round % self._every == 0:
            self._to.mkdir(parents=True, exist_ok=True)
            temporary = self._to / f"round-{record.round:06d}.tmp"
            with temporary.open("wb") as file:
                file.writelines(tensors.encode(model))
            temporary.replace(temporary.with_suffix(".safetensors"))


class TensorBoard(Observer):
    """Writes every figure for TensorBoard (extra ``tracking``): a tag ``split/metric/node``.

    Args:
        folder: where to; default: ``tensorboard`` in the run folder.

    Raises:
        ConfigError: if TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as err:
            raise ConfigError("TensorBoard is not installed", to_do="pip install 'polyclinic[tracking]'") from err
        self._make, self._folder = SummaryWriter, folder
        self._writer: Any = None

    def run_started(self, *, run_folder: Path, **_: Any) -> None:
        self._writer = self._make(str(self._folder or run_folder / "tensorboard"))

    def round_ended(self, *, record: RoundRecord, **_: Any) -> None:
        for row in record.rows:
            self._writer.add_scalar(f"{row.split}/{row.metric}/{row.node}", row.value, row.round)

    def run_ended(self, **_: Any) -> None:
        if self._writer is not None:
            self._writer.close()
