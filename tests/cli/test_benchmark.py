from __future__ import annotations

import subprocess
import sys

from typer.testing import CliRunner

from polyclinic.benchmark.results import ResultRow, ResultsFile
from polyclinic.cli.benchmark import app
from polyclinic.errors import ConfigError


def report(*args: object):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["report", *map(str, args)])


def row(seed: int, value: float) -> ResultRow:
    given = {
        "protocol": "flamby",
        "dataset": "fed_heart_disease",
        "method": "Pooled",
        "settings": "{}",
        "seed": seed,
        "test": "pooled",
        "round": 1,
        "final": True,
        "metric": "accuracy",
        "value": value,
        "num_samples": 254,
        "status": "done",
        "detail": "",
        "seconds": 1.0,
        "training_seconds": 1.0,
        "bytes": 0,
        "peak_memory": 1,
        "configuration": "{}",
        "versions": "{}",
        "cell": f"cell {seed}",
        "rows": 1,
        "finished": "2026-01-02T03:04:05+00:00",
    }
    return ResultRow.model_validate({name: given[name] for name in ResultRow.model_fields})


def test_report_of_two_files(tmp_path):
    for seed, value in ((1, 0.25), (2, 0.75)):
        ResultsFile(tmp_path / f"{seed}.csv").append([row(seed, value)])
    result = report(tmp_path / "1.csv", tmp_path / "2.csv", "--published", "--to", tmp_path / "to")
    assert result.exit_code == 0, result.output
    assert f"Report: {tmp_path / 'to' / 'report.html'}" in result.output
    assert "Pictures: 2 PNG files beside it" in result.output
    text = (tmp_path / "to" / "report.html").read_text(encoding="utf-8")
    assert "0.500 [−2.677, 3.677] (2)" in text  # 0.5 ± 12.7062 · 0.25
    assert "0.795" in text  # published


def test_report_of_no_file(tmp_path):
    result = report(tmp_path / "none.csv", "--to", tmp_path / "to")
    assert isinstance(result.exception, ConfigError)
    assert "there is no file" in str(result.exception)
    assert report().exit_code == 2


def test_the_commands_load_nothing_heavy():
    program = (
        "import sys, polyclinic.cli.benchmark; print({'torch', 'matplotlib', 'pandas', 'scipy'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", check=True)
    assert ran.stdout.strip() == "set()"
