"""A sweep that is killed in the middle: what was done stays, and the same command goes on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager

from polyclinic.benchmark.protocols import get_protocol
from polyclinic.benchmark.results import ResultsFile
from polyclinic.benchmark.runner import Sweep, plan_cells, run_cells

SWEEP = Sweep(["FedAverage", "FedProx"], (1, 2, 3), baselines=False, num_updates=5, rounds=4, curve_points=2)
COMMAND = ["benchmark", "run", "fed_heart_disease", "--protocol", "flamby", "--strategies", "FedAvg,FedProx"]
COMMAND += ["--seeds", "1-3", "--no-baselines", "--num-updates", "5", "--rounds", "4", "--curve-points", "2"]
CELLS = 6
ROWS = 2 * 6  # of a cell: two points with four centers, their mean and the pooled data


@contextmanager
def another_program(path, *, until):
    """The command, in a process of its own, when it has come so far."""
    command = [sys.executable, "-m", "polyclinic", *COMMAND, "--results", str(path)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as program:
        while not until():
            assert program.poll() is None, program.stdout.read()
            time.sleep(0.005)
        yield program


def rows_in(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a line that is just being written, or was when its writer was killed
        return ResultsFile(path).read()


def done_in(path):
    return {row.cell for row in rows_in(path)}


def figures(path):
    return {(row.cell, row.test, row.round, row.final): row.value for row in rows_in(path)}


def test_killed_in_the_middle_it_goes_on(tmp_path):
    path, ran = tmp_path / "results.csv", []
    cells = plan_cells(get_protocol("flamby"), "fed_heart_disease", SWEEP)
    with another_program(path, until=lambda: len(done_in(path)) >= 2) as program:
        program.send_signal(signal.SIGKILL)
    before, done = path.read_bytes(), done_in(path)
    assert 2 <= len(done) <= CELLS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_cells(cells, ResultsFile(path), told=lambda cell, _: ran.append(cell.id))
    assert {cell.id for cell in cells} == done | set(ran)
    assert not done & set(ran)
    assert path.read_bytes().startswith(before)

    undisturbed = ResultsFile(tmp_path / "undisturbed.csv")
    run_cells(cells, undisturbed)
    assert figures(path) == figures(undisturbed.path)
    assert len(figures(path)) == CELLS * ROWS


def test_two_programs_on_one_file_share_the_work(tmp_path):
    path, ran = tmp_path / "results.csv", []
    cells = plan_cells(get_protocol("flamby"), "fed_heart_disease", SWEEP)
    with another_program(path, until=(tmp_path / "results.csv.claims").exists) as program, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_cells(cells, ResultsFile(path), told=lambda cell, _: ran.append(cell.id))
        output = program.communicate()[0]
    assert program.returncode == 0, output
    assert {row.cell for row in rows_in(path)} == {cell.id for cell in cells}
    with path.open(encoding="utf-8") as file:
        assert sum(1 for _ in file) == 1 + CELLS * ROWS  # none was run twice
    assert len(set(ran)) == len(ran)
