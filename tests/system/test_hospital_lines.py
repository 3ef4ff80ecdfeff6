"""A real federation over bad lines: slow, long, cut in the middle of a transfer, cut again and again, and dead without
anybody being told. `tests.system.proxy` is the line of the second node and that of the researcher.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from polyclinic import Experiment
from polyclinic.errors import Cancelled
from polyclinic.federation.over_nats.researcher import NatsFederation
from tests.system.conftest import SOAK
from tests.system.hospitals import (
    NAMES,
    NODES,
    ROUNDS,
    STEPS,
    Hospitals,
    assert_same_end,
    experiment,
    in_background,
    in_this_process,
    until,
)
from tests.system.proxy import every

MEGABIT = 1e6 / 8
# float32: 5 MB, or 100 MB where there is time.
LARGE = 25_000_000 if SOAK else 1_250_000


def test_a_long_and_slow_line(hospitals: Hospitals, tmp_path: Path) -> None:
    for line in (hospitals.line, hospitals.node_line):
        line.delay, line.rate = (0.2 if SOAK else 0.1), 10 * MEGABIT
    # Just too large to travel inside of a message.
    settings = {"ballast": 70_000, "round_limit": 1}
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks, **settings)
    found.run()
    assert_same_end(found, in_this_process(tmp_path / "here", **settings))
    assert hospitals.steps() == len(NODES) * STEPS


@pytest.mark.parametrize("whose", ["researcher", "node"])
def test_a_transfer_that_is_cut_and_slowed_goes_on_where_it_was(
    hospitals: Hospitals, tmp_path: Path, whose: str
) -> None:
    one_way = 4 * LARGE
    line = hospitals.line if whose == "researcher" else hospitals.node_line
    # The researcher's line carries the model once down and twice up; the node's, once each way.
    total = one_way * (3 if whose == "researcher" else 2)
    line.rate = one_way / 1.5  # some seconds for the whole
    before = (line.passed, line.cuts)
    cuts = [int(total * part) for part in (0.1, 0.25, 0.6, 0.8)]
    line.cut_after(*cuts)
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks, ballast=LARGE, round_limit=1)
    found.run()
    assert line.cuts - before[1] == len(cuts)
    # What was under way is sent again each time, and little else.
    assert line.passed - before[0] < total + len(cuts) * 14 * (1 << 20) + one_way // 4
    assert hospitals.steps() == len(NODES) * STEPS
    assert_same_end(found, in_this_process(tmp_path / "here", ballast=LARGE, round_limit=1))


def test_connections_are_dropped_again_and_again(hospitals: Hospitals, expected: Experiment, tmp_path: Path) -> None:
    dice = random.Random(7)
    lines = (hospitals.line, hospitals.node_line)
    before = sum(line.cuts for line in lines)
    for line in lines:
        line.rate = 40 * MEGABIT
    stop = every(lambda: dice.uniform(0.2, 0.8), lambda: dice.choice(lines).cut())
    try:
        found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks)
        found.run()
    finally:
        stop()
    assert sum(line.cuts for line in lines) > before + 2
    assert_same_end(found, expected)
    assert hospitals.steps() == len(NODES) * ROUNDS * STEPS


def test_a_node_whose_line_is_dead_trains_on_and_answers_when_it_lives_again(
    hospitals: Hospitals, expected: Experiment, tmp_path: Path
) -> None:
    federation = NatsFederation(hospitals.identity)
    found = experiment(federation, tmp_path / "run", hospitals.marks)
    found.run_round()
    hospitals.wait(True)
    end = in_background(found.run)
    hospitals.training()
    hospitals.node_line.held = True
    hospitals.wait(False)
    until(lambda: hospitals.steps() == len(NODES) * 2 * STEPS, "training without a line")
    if SOAK:
        until(lambda: not federation._directory.nodes[NODES[1]].is_there, "absence")
    # A new line, as after a router's restart; the old one never says that it is gone.
    hospitals.node_line.refusing = True
    hospitals.node_line.cut()
    hospitals.node_line.reset()
    assert end() is None
    assert_same_end(found, expected)
    assert hospitals.steps() == len(NODES) * ROUNDS * STEPS
    federation.close()


def test_a_cancel_reaches_a_node_whose_line_was_cut_when_it_is_back(hospitals: Hospitals, tmp_path: Path) -> None:
    hospitals.wait(True)
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks, round_limit=1)
    end = in_background(found.run)
    hospitals.training()
    other = experiment(hospitals.federation, tmp_path / "other", hospitals.marks, nodes=NODES[1:], round_limit=1)
    waiting = in_background(other.run)
    until(lambda: hospitals.status(NODES[1]).queue == {"ada": 1}, "the queue")
    hospitals.node_line.refusing = True
    hospitals.node_line.cut()
    until(lambda: not hospitals.status(NODES[1]).connected, "a cut line")
    for one, ended in ((found, end), (other, waiting)):
        one.cancel()
        assert isinstance(ended(), Cancelled)
    assert hospitals.status(NODES[1]).task is not None
    hospitals.node_line.reset()
    # The plan waits for ever; the node ends it.
    until(lambda: hospitals.status(NODES[1]).task is None, "an end of the work")
    assert hospitals.status(NODES[1]).queue == {}
    hospitals.wait(False)
    found.run()
    assert found.records[-1].nodes == NAMES


def test_the_hub_cannot_be_reached_at_first(hospitals: Hospitals, expected: Experiment, tmp_path: Path) -> None:
    """The lines of all but one party are down while a round is asked for; it waits, and ends."""
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks)
    found.run_round()
    for line in (hospitals.line, hospitals.node_line):
        line.refusing = True
        line.cut()
    until(lambda: not hospitals.status(NODES[1]).connected, "the loss of the line")
    end = in_background(found.run)
    until(lambda: "connection to the hub is lost" in hospitals.log(NODES[1]), "word of it")
    for line in (hospitals.line, hospitals.node_line):
        line.reset()
    assert end() is None
    assert_same_end(found, expected)
