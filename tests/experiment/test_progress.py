"""The progress bar, in a terminal's place and in a notebook's."""

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from polyclinic.experiment.progress import ProgressBar
from polyclinic.experiment.record import FailureRow, RoundRecord
from polyclinic.federation.node_state import NodeState
from polyclinic.messages.replies import Failure, TrainReply
from polyclinic.node.stop import Progress


def a_run(bar):
    bar.run_started(name="trial", first_round=1, last_round=2, run_folder=Path("run"))
    bar.round_started(round=1, nodes=["va", "hungary"])
    bar.node_replied(
        node="va",
        reply=TrainReply(request_id="1", node_id="va", num_samples=3, num_updates=1, loss=0.25, seconds=0.0),
    )
    failed = Failure(request_id="2", node_id="hungary", code="training", stage="train", what="[bold]loss is nan")
    bar.node_replied(node="hungary", reply=failed)
    row = FailureRow.of(failed, "hungary")
    bar.round_ended(
        record=RoundRecord(round=1, started="", seconds=0, nodes=("va",), failures=(row,), notes=("a note",))
    )
    bar.run_ended(reason="stopped early")


def test_in_a_terminal_it_writes_to_standard_error(capsys):
    a_run(ProgressBar())
    out, err = capsys.readouterr()
    assert out == ""
    assert "round 1: hungary failed: [bold]loss is nan" in err
    assert "round 1: a note" in err
    assert "1/2" in err
    assert "stopped early" in err


def test_a_note_that_comes_with_every_round_is_shown_once(capsys):
    bar = ProgressBar()
    bar.run_started(name="trial", first_round=1, last_round=3, run_folder=Path("run"))
    for number, notes in enumerate([("a note",), ("a note", "another"), ("a note",)], 1):
        bar.round_ended(record=RoundRecord(round=number, started="", seconds=0, nodes=(), notes=notes))
    bar.run_ended(reason="done")
    err = capsys.readouterr().err
    assert [line for line in err.splitlines() if "note" in line] == ["round 1: a note"]
    assert "round 2: another" in err


def test_in_a_notebook_it_updates_one_display(monkeypatch):
    shown = []
    handle = SimpleNamespace(update=lambda bar: shown.append(bar._repr_html_()))
    display = SimpleNamespace(display=lambda bar, display_id: (shown.append(repr(bar)), handle)[1])
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    a_run(ProgressBar())
    assert "0 of 2 rounds" in shown[0]
    assert "<progress value='1' max='2'>" in shown[-1]
    assert "stopped early" in shown[-1]
    assert "hungary failed: [bold]loss is nan" in shown[-1]


def watched(bar):
    """A run in which one node waits and trains, and the other one goes away and comes back."""
    bar.run_started(name="trial", first_round=1, last_round=2, run_folder=Path("run"))
    bar.round_started(round=1, nodes=["va", "hungary"])
    bar.node_state(node="va", state=NodeState("va", "waiting", 1, ("bob",)))
    yield
    bar.node_state(node="va", state=NodeState("va", "training", progress=Progress(40, 100, 0.5)))
    bar.node_state(node="hungary", state=NodeState("hungary", "offline", since=1.0e9))
    yield
    bar.round_started(round=2, nodes=["va", "hungary"])
    bar.node_state(node="hungary", state=NodeState("hungary", "offline", since=1.0e9))
    bar.node_state(node="hungary", state=NodeState("hungary", "[sending]"))
    yield
    bar.run_ended(reason="done")


def test_what_nodes_are_at_is_shown_below_the_bar_of_a_notebook(monkeypatch):
    shown = []
    handle = SimpleNamespace(update=lambda bar: shown.append(bar._repr_html_()))
    display = SimpleNamespace(display=lambda bar, display_id: (shown.append(repr(bar)), handle)[1])
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=1)))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    bar = ProgressBar()
    run = watched(bar)
    next(run)
    assert "<pre>  va  waiting, 1 before it (bob)</pre>" in bar._bar._repr_html_()
    next(run)
    assert "  va       training, batch 40 of 100, loss 0.5\n  hungary  offline since " in shown[-1]
    assert shown[-1].count("<div>hungary is offline since 2001-09-09") == 1
    next(run)
    assert "hungary  [sending]" in bar._bar._repr_html_()
    assert shown[-1].count("is offline") == 1
    assert shown[-1].count("hungary is there again") == 1
    next(run, None)
    assert "<pre>" not in shown[-1]


def test_absence_is_said_once_where_there_is_no_terminal(capsys):
    for _ in watched(ProgressBar()):
        pass
    err = capsys.readouterr().err
    assert err.count("hungary is offline since 2001-09-09") == 1
    assert err.count("hungary is there again") == 1
    assert "batch 40" not in err  # lines that change are for a terminal


def test_in_a_terminal_the_lines_are_below_the_bar(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    bar = ProgressBar()
    run = watched(bar)
    next(run)
    bar._bar._progress.refresh()
    next(run)
    bar._bar._progress.refresh()
    err = capsys.readouterr().err
    assert "  va  waiting, 1 before it (bob)" in err
    assert "  va       training, batch 40 of 100, loss 0.5" in err
    for _ in run:
        pass


@pytest.mark.parametrize("hook", ["round_ended", "run_ended"])
def test_it_bears_hooks_without_a_run(hook):
    facts = {"record": RoundRecord(round=1, started="", seconds=0, nodes=()), "reason": "done"}
    getattr(ProgressBar(), hook)(**facts)
