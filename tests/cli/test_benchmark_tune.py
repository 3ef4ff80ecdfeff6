from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from polyclinic.benchmark import tune as module
from polyclinic.benchmark.results import ResultsFile
from polyclinic.cli.benchmark import app
from polyclinic.errors import ConfigError

HEART = "fed_heart_disease"


def invoke(command: str, *args: object):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [command, *map(str, args)])


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def asked(monkeypatch):
    """What is to be tuned; nothing is run."""
    found = []

    def tune(cell, *, seeds, trials, images):
        found.append((cell.method, seeds, trials, images))
        return {"lr": 0.5, "num_updates": 5}, 0.25

    monkeypatch.setattr(module, "tune", tune)
    return found


def test_what_is_found_is_told_written_and_taken_by_a_run(tmp_path):
    result = invoke("tune", HEART, "--strategies", "FedAvg", "--trials", 2, "--seeds", "1", "--to", "new/found.json")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [
        "Tuned: new/found.json",
        f"Next: polyclinic benchmark run {HEART} --tuned new/found.json",
    ]
    found = json.loads((tmp_path / "new" / "found.json").read_text(encoding="utf-8"))[HEART]["FedAverage"]
    assert set(found) == {"lr", "optimizer", "num_updates", "schedule"}
    assert "FedAverage: validation loss 0." in result.stderr
    assert f"lr={found['lr']}" in result.stderr
    options = ["--strategies", "FedAvg", "--seeds", "1", "--no-baselines", "--rounds", "1", "--tuned", "new/found.json"]
    ran = invoke("run", HEART, *options)
    assert ran.exit_code == 0, ran.output
    rows = ResultsFile(tmp_path / "benchmark-polyclinic.csv").read()
    assert {row.settings for row in rows} == {json.dumps(found, sort_keys=True)}


def test_all_methods_are_pooled_training_and_every_strategy_but_no_single_center(asked, tmp_path):
    result = invoke("tune", HEART, "--trials", 3)
    assert result.exit_code == 0, result.output
    methods = [method for method, *_ in asked]
    assert methods[0] == "Pooled"
    assert {"FedAverage", "Scaffold", "FineTuning"} <= set(methods)
    assert not [method for method in methods if method.startswith("Local")]
    assert {(tuple(seeds), trials, images) for _, seeds, trials, images in asked} == {((1, 2, 3), 3, False)}
    written = json.loads((tmp_path / "tuned.json").read_text(encoding="utf-8"))[HEART]
    assert sorted(written) == sorted(methods)


def test_chosen_methods_are_added_to_the_file(asked, tmp_path):
    (tmp_path / "tuned.json").write_text('{"fed_ixi": {"FedProx": {"lr": 1}}}', encoding="utf-8")
    assert invoke("tune", HEART, "--strategies", "Pooled, FedProx").exit_code == 0
    assert [method for method, *_ in asked] == ["Pooled", "FedProx"]
    assert invoke("tune", HEART, "--strategies", "Pooled").exit_code == 0
    assert [method for method, *_ in asked] == ["Pooled", "FedProx", "Pooled"]
    written = json.loads((tmp_path / "tuned.json").read_text(encoding="utf-8"))
    assert written == {
        "fed_ixi": {"FedProx": {"lr": 1}},
        HEART: {key: {"lr": 0.5, "num_updates": 5} for key in ["FedProx", "Pooled"]},
    }


def test_a_file_that_is_something_else_is_told_before_the_search(asked, tmp_path):
    (tmp_path / "tuned.json").write_text("my diary", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"tuned\.json is no file of hyper-parameters"):
        raise invoke("tune", HEART).exception
    assert asked == []
    assert (tmp_path / "tuned.json").read_text(encoding="utf-8") == "my diary"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--strategies", "FedAvrage"], r"no strategy 'FedAvrage' .*\n  What to do: did you mean 'FedAverage'\?"),
        (["--seeds", "x"], "'x' names no seeds"),
    ],
    ids=["strategy", "seeds"],
)
def test_bad_options(asked, args, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        raise invoke("tune", HEART, *args).exception
    assert asked == []
    assert not (tmp_path / "tuned.json").exists()
