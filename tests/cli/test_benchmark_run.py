from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from polyclinic.benchmark.results import ResultsFile
from polyclinic.cli.benchmark import app
from polyclinic.cli.benchmark_run import parse_paths, parse_settings
from polyclinic.errors import ConfigError, DatasetError

QUICK = "--protocol flamby --strategies FedAvg --seeds 1,2 --no-baselines --num-updates 2 --rounds 2".split()  # noqa: SIM905


def run(*args: object):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["run", *map(str, args)])


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_sweep_and_the_same_again(tmp_path):
    result = run("fed_heart_disease", *QUICK)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("Protocol flamby: 100 local SGD updates a round")
    assert lines[1] == "2 cells, 0 of them done already. Results: benchmark-flamby.csv"
    assert lines[-1] == "Next: polyclinic benchmark report benchmark-flamby.csv --published"
    rows = ResultsFile(tmp_path / "benchmark-flamby.csv").read()
    assert [(row.method, row.seed, row.test) for row in rows if row.final and row.test == "mean"] == [
        ("FedAverage", 1, "mean"),
        ("FedAverage", 2, "mean"),
    ]
    # Each cell has a line of its own, and the methods a table.
    pooled = [row.value for row in rows if row.final and row.test == "pooled"]
    mean = [row.value for row in rows if row.final and row.test == "mean"]
    for seed in (1, 2):
        told = f"fed_heart_disease, FedAverage, seed {seed}: mean {mean[seed - 1]:.4f}, pooled {pooled[seed - 1]:.4f}"
        assert told in result.stderr
    assert f"{sum(mean) / 2:.4f} ± " in result.stdout
    before = (tmp_path / "benchmark-flamby.csv").read_bytes()
    again = run("fed_heart_disease", *QUICK)
    assert "2 cells, 2 of them done already" in again.stdout
    assert f"{sum(mean) / 2:.4f} ± " in again.stdout
    assert (tmp_path / "benchmark-flamby.csv").read_bytes() == before


def test_options_come_to_the_cells(tmp_path):
    tuned = tmp_path / "tuned.json"
    tuned.write_text(json.dumps({"fed_heart_disease": {"FedProx": {"lr": 0.125}}}), encoding="utf-8")
    options = ["--strategies", "FedProx, Cyclic", "--seeds", "7", "--no-baselines", "--rounds", "2", "--tuned", tuned]
    options += ["--set", "FedProx.mu=2", "--set", 'Cyclic.order="fixed"', "--results", "here/there.csv"]
    result = run("fed_heart_disease", *options)
    assert result.exit_code == 0, result.output
    rows = ResultsFile(tmp_path / "here" / "there.csv").read()
    settings = {row.method: json.loads(row.settings) for row in rows}
    assert (settings["FedProx"]["mu"], settings["FedProx"]["lr"]) == (2, 0.125)
    assert settings["Cyclic"]["order"] == "fixed"
    assert {(row.protocol, row.seed) for row in rows} == {("polyclinic", 7)}
    assert "--published" not in result.stdout.splitlines()[-1]
    fixed = run("fed_heart_disease", *QUICK, "--fix", "data", "--fix", "buffers", "--curve-points", 0)
    assert fixed.exit_code == 0
    rows = ResultsFile(tmp_path / "benchmark-flamby.csv").read()
    assert {tuple(json.loads(row.configuration)["fixes"]) for row in rows} == {("buffers", "data")}
    assert {row.round for row in rows} == {2}


def test_a_dataset_whose_data_are_missing_is_left_out_and_the_others_run(tmp_path):
    result = run("fed_heart_disease", "fed_tcga_brca", *QUICK, "--data", f"fed_tcga_brca={tmp_path / 'none'}")
    assert result.exit_code == 1
    assert "fed_tcga_brca is left out: " in result.stderr
    rows = ResultsFile(tmp_path / "benchmark-flamby.csv").read()
    assert {(row.dataset, row.status) for row in rows} == {("fed_heart_disease", "done")}
    with pytest.raises(DatasetError):
        raise run("fed_tcga_brca", *QUICK, "--data", tmp_path / "none").exception


def test_a_setting_that_is_wrong_is_told_before_any_dataset_is_run(tmp_path):
    result = run("fed_heart_disease", "fed_tcga_brca", *QUICK, "--set", "lrr=1")
    assert isinstance(result.exception, ConfigError)
    assert not (tmp_path / "benchmark-flamby.csv").exists()


def test_a_cell_that_fails_and_one_that_diverges(monkeypatch):
    from polyclinic.benchmark import flamby
    from polyclinic.benchmark.cells import Diverged

    def refuse(*_):
        raise DatasetError("no room", to_do="make some")

    def diverge(*_):
        raise Diverged(2, "the loss is nan", [])

    monkeypatch.setattr(flamby, "initial_state", refuse)
    result = run("fed_heart_disease", *QUICK)
    assert result.exit_code == 1
    assert "FedAverage, seed 1: failed in round 0: no room. make some" in result.stderr
    assert "failed, seed 1; failed, seed 2" in result.stdout
    # That is a result, and no reason to stop a script.
    monkeypatch.setattr(flamby, "initial_state", diverge)
    result = run("fed_heart_disease", *QUICK)
    assert result.exit_code == 0
    assert "0 of them done already" in result.stdout
    assert "FedAverage, seed 1: diverged in round 2: the loss is nan" in result.stderr
    assert "diverged, seed 1; diverged, seed 2" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--protocol", "flambee"], r"no protocol 'flambee'\n  What to do: did you mean 'flamby'\?"),
        (["--seeds", "one"], "'one' names no seeds"),
        (["--strategies", "FedAvrage"], r"no strategy 'FedAvrage' .*\n  What to do: did you mean 'FedAverage'\?"),
        (["--set", "lr"], r"--set 'lr' is no hyper-parameter with its value\n  What to do: write --set lr=0.1"),
        (["--protocol", "polyclinic", "--fix", "tau"], "--fix is for protocol flamby"),
        (["--tuned", "none.json"], r"none\.json is no file of hyper-parameters"),
        (["--data", "fed_ixi=/x"], r"names 'fed_ixi', which is not to be run\n  What to do: known: fed_heart_disease"),
    ],
    ids=["protocol", "seeds", "strategy", "set", "fix", "tuned", "data"],
)
def test_bad_options(args, message):
    with pytest.raises(ConfigError, match=message):
        raise run("fed_heart_disease", *args).exception


def test_a_results_file_of_another_protocol_or_kind(tmp_path):
    run("fed_heart_disease", *QUICK, "--results", "results.csv")
    sound = ["--strategies", "FedAvg", "--no-baselines", "--results", "results.csv"]
    with pytest.raises(ConfigError, match=r"results\.csv holds results of protocol 'flamby', not 'polyclinic'"):
        raise run("fed_heart_disease", *sound).exception
    (tmp_path / "notes.csv").write_text("name,age\nA,3\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"notes\.csv is no results file"):
        raise run("fed_heart_disease", *QUICK, "--results", "notes.csv").exception
    assert (tmp_path / "notes.csv").read_text(encoding="utf-8") == "name,age\nA,3\n"


def test_settings_are_json_or_texts():
    given = [
        "lr=0.1",
        "FedProx.mu=1e-3",
        'order="fixed"',
        "order2=shuffled",
        "head=[1]",
        "on = true",
        "empty=",
        "a=b=c",
    ]
    assert parse_settings(given) == {
        "lr": 0.1,
        "FedProx.mu": 0.001,
        "order": "fixed",
        "order2": "shuffled",
        "head": [1],
        "on": True,
        "empty": "",
        "a": "b=c",
    }
    for text in ("lr", "=3", " =3"):
        with pytest.raises(ConfigError, match="is no hyper-parameter with its value"):
            parse_settings([text])


def test_paths_of_one_and_of_several_datasets(tmp_path):
    one, other = tmp_path / "one", tmp_path / "other"
    assert parse_paths([str(one)], ["fed_ixi"]) == {"fed_ixi": one}
    both = ["fed_ixi", "fed_kits19"]
    assert parse_paths([f"fed_kits19={other}", f"fed_ixi={one}"], both) == {"fed_ixi": one, "fed_kits19": other}
    with pytest.raises(ConfigError, match=r"names no dataset, and there are 2\n  What to do: write --data fed_ixi=/x"):
        parse_paths(["/x"], both)
    with pytest.raises(ConfigError, match=r"names 'fed_kits', which is not to be run\n.* did you mean 'fed_kits19'\?"):
        parse_paths(["fed_kits=/x"], both)


def test_a_path_with_an_equals_sign(tmp_path):
    path = tmp_path / "alpha=0.5"
    path.mkdir()
    assert parse_paths([str(path)], ["fed_ixi"]) == {"fed_ixi": path}
    assert parse_paths([f"fed_ixi={path}"], ["fed_ixi", "fed_kits19"]) == {"fed_ixi": path}
