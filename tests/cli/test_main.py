"""The command line as a process: help that is quick, errors that are messages, and the demo."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from polyclinic import Experiment, __version__
from polyclinic.cli import app


def polyclinic(*words, **settings):
    command = [sys.executable, "-m", "polyclinic", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, **settings)


@pytest.mark.parametrize("group", ["", "dataset", "federation", "node"])
def test_help_teaches_without_importing_torch(group):
    heavy = "[m for m in ('torch', 'numpy', 'pandas', 'sqlalchemy') if m in sys.modules]"
    program = (
        "import sys; from typer.testing import CliRunner; from polyclinic.cli import app\n"
        f"print(CliRunner().invoke(app, {[*group.split(), '--help']!r}).output, {heavy})"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.rstrip().endswith("[]")
    assert "Usage:" in ran.stdout
    assert "--help" in ran.stdout


def test_version():
    assert polyclinic("--version").stdout == f"polyclinic {__version__}\n"


def test_an_error_is_a_message_with_what_to_do(tmp_path):
    ran = polyclinic("federation", "show", "--at", str(tmp_path / "nothing"))
    assert ran.returncode == 1
    assert ran.stderr.startswith("Error: there are no nodes at")
    assert "What to do: make some with: polyclinic federation create fed_heart_disease" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_demo_trains_compares_and_can_be_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, ["demo", "--rounds", "2", "--folder", str(tmp_path / "run")])
    assert result.exception is None
    lines = result.output.splitlines()
    assert all(len(line) <= 80 or str(tmp_path) in line for line in lines)
    for hospital, patients in (("Cleveland", 104), ("Hungary", 89), ("Switzerland", 16), ("Long Beach VA", 45)):
        assert any(hospital in line and str(patients) in line and line.count("%") == 3 for line in lines)
    assert any("all hospitals" in line and "254" in line for line in lines)
    assert (tmp_path / "run" / "curves.png").read_bytes().startswith(b"\x89PNG")
    experiment = Experiment.load(tmp_path / "run")
    assert experiment.round == 2
    assert {row.split for row in experiment.history} == {"train", "test"}


def test_the_demo_is_the_same_for_the_same_seed(tmp_path):
    tables = []
    for name in "ab":
        result = CliRunner().invoke(app, ["demo", "--rounds", "1", "--folder", str(tmp_path / name), "--seed", "5"])
        tables.append([line for line in result.output.splitlines() if "%" in line])
    assert tables[0] == tables[1]
    assert len(tables[0]) == 6
