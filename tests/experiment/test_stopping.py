"""Ctrl-C, as a terminal sends it."""

import os
import signal
import threading

import pytest

from polyclinic import Experiment, Observer
from polyclinic.errors import Cancelled
from polyclinic.experiment.stopping import interrupts_cancel


class PressCtrlC(Observer):
    """In the middle of round 2."""

    def __init__(self):
        self.pressed = 0

    def node_replied(self, **_):
        self.pressed += 1
        if self.pressed == 4:
            os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_ends_a_run_with_the_last_round_safe(make, federation, tmp_path, same):
    whole = make(folder=tmp_path / "whole")
    whole.run()
    before = signal.getsignal(signal.SIGINT)
    experiment = make(observers=[PressCtrlC()])
    with pytest.raises(KeyboardInterrupt, match="stopped on request"):
        experiment.run()
    assert signal.getsignal(signal.SIGINT) is before
    assert experiment.round == 1
    assert Experiment.load(tmp_path / "run").round == 1
    experiment.run()
    assert same(experiment.model(), whole.model())


def press_twice(cancelled):
    os.kill(os.getpid(), signal.SIGINT)
    assert cancelled == [1]
    os.kill(os.getpid(), signal.SIGINT)


def test_the_second_ctrl_c_is_for_python():
    cancelled = []
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt) as caught, interrupts_cancel(lambda: cancelled.append(1)):
        press_twice(cancelled)
    assert str(caught.value) == ""
    assert cancelled == [1]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_cancel_that_nobody_pressed_stays_one():
    with pytest.raises(Cancelled), interrupts_cancel(lambda: None):
        raise Cancelled("by another thread")


def test_in_another_thread_signals_are_left_alone():
    seen = []

    def work():
        with interrupts_cancel(lambda: None):
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_ctrl_c_after_the_last_batch_is_not_lost():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="the last round, which is complete"), interrupts_cancel(lambda: None):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_where_ctrl_c_is_ignored_it_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_cancel(lambda: pytest.fail("cancelled")):
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
