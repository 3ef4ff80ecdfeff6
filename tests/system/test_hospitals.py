"""A real federation on a bad day: its hub, nodes and researcher are killed, frozen and cut off, each at the worst
time. Every round ends, nothing is trained twice, and the model is the one of this process, bit for bit.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from polyclinic import Experiment
from polyclinic.errors import Cancelled, RoundFailed
from polyclinic.federation.hub.status import look
from polyclinic.federation.over_nats import event_loop
from polyclinic.federation.over_nats.researcher import NatsFederation
from tests.system.hospitals import (
    NAMES,
    NODES,
    ROUNDS,
    STEPS,
    Hospitals,
    assert_same_end,
    experiment,
    in_background,
    until,
)

ALL_STEPS = len(NODES) * ROUNDS * STEPS
LONG = {"batch_size": 16, "num_updates": 100_000}


def test_the_model_is_that_of_this_process(hospitals: Hospitals, expected: Experiment, tmp_path: Path) -> None:
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks)
    found.run()
    assert_same_end(found, expected)
    assert hospitals.steps() == ALL_STEPS


def test_a_node_that_is_killed_in_training_goes_on_when_it_is_started_again(
    hospitals: Hospitals, expected: Experiment, tmp_path: Path
) -> None:
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks)
    found.run_round()
    hospitals.wait(True)
    end = in_background(found.run)
    hospitals.training()
    hospitals.tries.kill(NODES[0])
    hospitals.wait(False)
    hospitals.tries.start_again(NODES[0])
    assert end() is None
    assert_same_end(found, expected)


def test_the_hub_is_killed_in_training_and_comes_back(
    hospitals: Hospitals, expected: Experiment, tmp_path: Path
) -> None:
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks)
    found.run_round()
    hospitals.wait(True)
    end = in_background(found.run)
    hospitals.training()
    hospitals.kill_hub()
    # Nodes end their training while there is no hub.
    hospitals.wait(False)
    until(lambda: hospitals.steps() >= len(NODES) * 2 * STEPS, "training without a hub")
    hospitals.tries.start_again("hub")
    assert end() is None
    assert_same_end(found, expected)
    assert hospitals.steps() == ALL_STEPS


def test_a_researcher_who_is_killed_at_each_stage_of_a_round_goes_on(
    hospitals: Hospitals, expected: Experiment, tmp_path: Path
) -> None:
    before = hospitals.log(NODES[0]).count("answered again")
    # All but the last two die in the first round.
    stages = ["prepared", "uploading", "asking", "waiting", "replied", "recorded", "end"]
    with hospitals.researcher(tmp_path / "run", *stages) as program:
        told = program.communicate()[0].decode().splitlines()
    assert told == [*(f"{stage} was killed" for stage in stages[:-1]), "end ended with 0"]
    assert_same_end(Experiment.load(tmp_path / "run"), expected)
    assert hospitals.steps() == ALL_STEPS
    # Whoever was killed with all replies at hand found them at the hub, and asked no node again.
    assert hospitals.log(NODES[0]).count("answered again") <= before + 1


def test_a_node_that_is_frozen_is_missed_and_its_late_reply_counts_nowhere(
    hospitals: Hospitals, tmp_path: Path
) -> None:
    # Longer than the heartbeat is remembered, and two seconds more.
    federation = NatsFederation(hospitals.identity, patience=12.0)
    found = experiment(federation, tmp_path / "run", hospitals.marks, min_nodes=1, round_limit=2)
    hospitals.wait(True)
    end = in_background(found.run_round)
    hospitals.training()
    hospitals.tries.kill(NODES[1], signal.SIGSTOP)
    hospitals.wait(False)
    until(lambda: not federation._directory.nodes[NODES[1]].is_there, "absence")
    assert end() is None
    assert found.records[-1].nodes == NAMES[:1]
    assert [(f.node, f.code, f.what) for f in found.records[-1].failures] == [
        (NAMES[1], "node", "node Hungary is not at the hub")
    ]
    hospitals.tries.kill(NODES[1], signal.SIGCONT)
    until(lambda: federation._directory.nodes[NODES[1]].is_there, "return")
    found.run_round()
    assert found.records[-1].nodes == NAMES
    federation.close()


def test_cancel_reaches_nodes_at_work_and_the_run_goes_on_later(
    hospitals: Hospitals, expected: Experiment, tmp_path: Path
) -> None:
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks)
    (hospitals.marks / "wait").touch()
    (hospitals.marks / "stoppable").touch()
    longer = experiment(hospitals.federation, tmp_path / "longer", hospitals.marks, training_args=dict(LONG))
    end = in_background(longer.run)
    hospitals.training()
    longer.cancel()
    assert isinstance(end(), Cancelled)
    hospitals.restore()
    found.run()
    assert_same_end(found, expected)


def test_a_task_that_the_hospital_stops_fails_at_this_node_only(hospitals: Hospitals, tmp_path: Path) -> None:
    (hospitals.marks / "wait").touch()
    (hospitals.marks / "stoppable").touch()
    longer = experiment(hospitals.federation, tmp_path / "run", hospitals.marks, training_args=dict(LONG))
    end = in_background(longer.run)
    hospitals.training()
    command = ["node", "stop-task", NODES[0], "--at", str(hospitals.tries.place)]
    subprocess.run([sys.executable, "-m", "polyclinic", *command], check=True, capture_output=True)
    os.kill(hospitals.status(NODES[1]).pid, signal.SIGUSR1)  # what the command does
    error = end()
    assert isinstance(error, RoundFailed)
    assert error.codes == {"node"}
    assert "the task was stopped at the hospital" in str(error)


def test_searches_are_answered_while_a_node_trains(hospitals: Hospitals, tmp_path: Path) -> None:
    hospitals.wait(True)
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks, round_limit=1)
    end = in_background(found.run)
    hospitals.training()
    other = experiment(hospitals.federation, tmp_path / "other", hospitals.marks, nodes=["hungary"], round_limit=1)
    later = in_background(other.run)
    until(lambda: hospitals.status("hungary").queue == {"ada": 1}, "the queue")
    hospitals.wait(False)
    assert end() is None
    assert later() is None


def test_what_is_cancelled_while_it_waits_leaves_the_queue_at_once(hospitals: Hospitals, tmp_path: Path) -> None:
    hospitals.wait(True)
    found = experiment(hospitals.federation, tmp_path / "run", hospitals.marks, nodes=["hungary"], round_limit=1)
    end = in_background(found.run)
    hospitals.training(1)
    other = experiment(hospitals.federation, tmp_path / "other", hospitals.marks, nodes=["hungary"], round_limit=1)
    waiting = in_background(other.run)
    until(lambda: hospitals.status("hungary").queue == {"ada": 1}, "the queue")
    other.cancel()
    assert isinstance(waiting(), Cancelled)
    until(lambda: hospitals.status("hungary").queue == {}, "an empty queue")
    assert hospitals.status("hungary").task is not None
    hospitals.wait(False)
    assert end() is None
    # It was answered once and for all, and asking again tries again.
    other.run()
    assert other.round == 1


def test_little_is_left_at_the_hub(hospitals: Hospitals, tmp_path: Path) -> None:
    def stored() -> dict[str, int]:
        return {name: number for name, (number, _) in event_loop.run(look(hospitals.tries.hub)).stored.items()}

    before = stored()
    for number in range(2):
        experiment(hospitals.federation, tmp_path / f"run-{number}", hospitals.marks).run()
    # What earlier tests left may go meanwhile.
    until(lambda: all(number <= before[name] for name, number in stored().items()), "tidying up")
