"""The progress bar of a run, in terminals and in notebooks."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Protocol

from polyclinic.experiment.node_lines import NodeLines
from polyclinic.experiment.observers import Observer
from polyclinic.experiment.record import RoundRecord
from polyclinic.federation.node_state import NodeState
from polyclinic.messages.replies import Failure, Reply, TrainReply

if TYPE_CHECKING:
    from rich.console import RenderableType


class ProgressBar(Observer):
    """Rounds done, nodes done in this round, and the last training loss; below it, what each node is at, where nodes
    say so."""

    def __init__(self) -> None:
        self._bar: _Bar | None = None
        self._noted: set[str] = set()
        self._lines = NodeLines()

    def run_started(self, *, name: str, first_round: int, last_round: int, **_: Any) -> None:
        make = _NotebookBar if _in_notebook() else _TerminalBar
        self._bar = make(name, first_round - 1, last_round)
        self._lines = NodeLines()

    def approval_awaited(self, *, node: str, what: str, to_do: str, **_: Any) -> None:
        if self._bar:
            self._bar.say(f"{what}; {to_do}")
            self._bar.show(f"waits for approval at {node}")

    def round_started(self, *, round: int, nodes: Sequence[str], **_: Any) -> None:  # noqa: A002
        self._round, self._num_nodes, self._done = round, len(nodes), 0
        self._lines.begin(nodes)
        if self._bar:
            self._bar.show(f"round {round}, 0 of {len(nodes)} nodes")

    def node_state(self, *, node: str, state: NodeState, **_: Any) -> None:
        self._draw_lines(self._lines.state(node, state))

    def _draw_lines(self, said: str) -> None:
        if self._bar:
            self._bar.below(self._lines.lines())
            if said:
                self._bar.say(said)

    def node_replied(self, *, node: str, reply: Reply, **_: Any) -> None:
        self._done += 1
        if isinstance(reply, TrainReply):
            detail = f"round {self._round}, {self._done} of {self._num_nodes} nodes, {node}: loss {reply.loss:.4g}"
        else:
            detail = f"round {self._round}, {node} failed: {reply.code if isinstance(reply, Failure) else ''}"
        if self._bar:
            self._bar.show(detail)
        self._draw_lines(self._lines.replied(node, reply))

    def round_ended(self, *, record: RoundRecord, **_: Any) -> None:
        if self._bar:
            self._bar.advance(record.round)
            for failure in record.failures:
                self._bar.say(f"round {record.round}: {failure.node} failed: {failure.what}")
            # What a node says in each round is read once.
            for note in record.notes:
                if note not in self._noted:
                    self._noted.add(note)
                    self._bar.say(f"round {record.round}: {note}")

    def run_ended(self, *, reason: str, **_: Any) -> None:
        if self._bar:
            self._bar.end(reason)
            self._bar = None


class _Bar(Protocol):
    def __init__(self, name: str, done: int, total: int) -> None: ...
    def advance(self, done: int) -> None: ...
    def show(self, detail: str) -> None: ...
    def below(self, lines: Sequence[str]) -> None: ...
    def say(self, text: str) -> None: ...
    def end(self, reason: str) -> None: ...


class _TerminalBar:
    """A line on standard error; where that is no terminal, the last state only."""

    def __init__(self, name: str, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.text import Text

        class WithLines(Progress):
            lines: Sequence[str] = ()

            def get_renderables(self) -> Iterable[RenderableType]:
                yield from super().get_renderables()
                if self.lines:
                    yield Text("\n".join(self.lines), no_wrap=True, overflow="ellipsis")

        self._progress = WithLines(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}", markup=False),
            console=Console(stderr=True),
            # Drawn from a thread of its own, so the round loop does not wait for the screen.
            refresh_per_second=5,
        )
        self._progress.start()
        self._task = self._progress.add_task(name, total=total, completed=done, detail="")

    def advance(self, done: int) -> None:
        self._progress.update(self._task, completed=done)

    def show(self, detail: str) -> None:
        self._progress.update(self._task, detail=detail)

    def below(self, lines: Sequence[str]) -> None:
        self._progress.lines = lines

    def say(self, text: str) -> None:
        # No markup: square brackets are the plan's or the data's own.
        self._progress.console.print(text, style="yellow", markup=False, highlight=False)

    def end(self, reason: str) -> None:
        self.show(reason)
        self.below(())
        self._progress.stop()


class _NotebookBar:
    """An HTML bar under the cell, drawn anew at most five times a second; needs no notebook extension."""

    def __init__(self, name: str, done: int, total: int) -> None:
        from IPython.display import display

        self._name, self._done, self._total, self._detail = name, done, total, ""
        self._said: list[str] = []
        self._below: Sequence[str] = ()
        self._began = self._drawn = time.monotonic()
        self._handle: Any = display(self, display_id=True)  # type: ignore[no-untyped-call]

    def advance(self, done: int) -> None:
        self._done = done
        self._draw(at_once=done == self._total)

    def show(self, detail: str) -> None:
        self._detail = detail
        self._draw()

    def below(self, lines: Sequence[str]) -> None:
        if lines != self._below:
            self._below = lines
            self._draw()

    def say(self, text: str) -> None:
        self._said.append(text)
        self._draw(at_once=True)

    def end(self, reason: str) -> None:
        self._detail, self._below = reason, ()
        self._draw(at_once=True)

    def _draw(self, *, at_once: bool = False) -> None:
        if at_once or time.monotonic() - self._drawn > 0.2:
            self._drawn = time.monotonic()
            self._handle.update(self)

    def _repr_html_(self) -> str:
        seconds = int(time.monotonic() - self._began)
        state = f"{self._done} of {self._total} rounds, {seconds // 60}:{seconds % 60:02}, {self._detail}"
        below = f"<pre>{escape(chr(10).join(self._below))}</pre>" if self._below else ""
        said = "".join(f"<div>{escape(text)}</div>" for text in self._said[-20:])
        return (
            f"<div>{escape(self._name)} <progress value='{self._done}' max='{self._total}'></progress> "
            f"{escape(state)}</div>{below}{said}"
        )

    def __repr__(self) -> str:
        return f"{self._name}: {self._done} of {self._total} rounds, {self._detail}"


def _in_notebook() -> bool:
    """Whether this runs in a Jupyter kernel: IPython is then imported already."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell is not None and hasattr(shell, "kernel")
