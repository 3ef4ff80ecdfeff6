"""polyclinic node: making a node, and registering data at it."""

import csv
import random

import pytest
from typer.testing import CliRunner

from polyclinic.cli import app
from polyclinic.errors import ConfigError, DatasetError, NodeError


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCLINIC_FEDERATION", str(tmp_path / "place"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words):
        result = CliRunner().invoke(app, words)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    run("node", "create", "Guy's Hospital")
    return run


@pytest.fixture
def table(tmp_path):
    draw = random.Random(0)
    path = tmp_path / "patients.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["pid", "age", "sex", "num"])
        for number in range(40):
            writer.writerow([number, draw.randint(30, 80) if number else "", draw.choice("mf"), number % 2])
    return path


def test_create_says_what_comes_next(run):
    out = run("node", "create", "Cleveland clinic")
    assert "cleveland-clinic" in out
    assert "polyclinic node add-dataset cleveland-clinic" in out
    with pytest.raises(NodeError, match="already"):
        run("node", "create", "cleveland CLINIC")


def test_add_dataset_says_what_was_found(run, table):
    words = ["node", "add-dataset", "guy-s-hospital", "tabular", "--path", str(table), "--target", "num"]
    out = run(*words, "--tags", "heart, trial", "--categorical", "sex=m,f", "--id-column", "pid", "--name", "Ward 3")
    for fact in ("Ward 3 (id ward-3, tabular)", "heart, trial", "age, sex_m, sex_f", "age 1", "filled with the mean"):
        assert fact.replace("sex_m", "sex=m").replace("sex_f", "sex=f") in out or fact in out
    assert "Ward 3" in run("node", "show", "guy-s-hospital")


def test_the_default_name_is_the_files(run, table):
    words = ["node", "add-dataset", "guy-s-hospital", "tabular", "--path", str(table), "--target", "num"]
    out = run(*words, "--tags", "heart", "--features", "age")
    assert "patients (id patients, tabular)" in out
    run("node", "remove-dataset", "guy-s-hospital", "patients")
    with pytest.raises(NodeError, match="no dataset 'patients'"):
        run("node", "remove-dataset", "guy-s-hospital", "patients")


@pytest.mark.parametrize(
    ("kind", "words", "error", "text"),
    [
        ("tabular", ["--target", "nun", "--features", "age"], DatasetError, "nun"),
        ("tabular", ["--target", "num"], DatasetError, "sex"),
        ("tabular", ["--target", "num", "--size", "3,3"], ConfigError, "'size'"),
        ("tabular", ["--target", "num", "--missing", "guess"], ConfigError, "missing"),
        ("tabla", ["--target", "num"], ConfigError, "tabla"),
    ],
)
def test_bad_input_is_named_and_nothing_is_registered(run, table, kind, words, error, text):
    with pytest.raises(error, match=text):
        run("node", "add-dataset", "guy-s-hospital", kind, "--path", str(table), "--tags", "x", *words)
    assert run("node", "show", "guy-s-hospital") == ""


def test_an_unknown_node_names_the_nearest(run):
    with pytest.raises(NodeError) as caught:
        run("node", "show", "guys-hospital")
    assert "guy-s-hospital" in caught.value.to_do


def test_python_and_image_options_reach_their_kinds(run, tmp_path):
    source = tmp_path / "mine.py"
    source.write_text(
        "import torch\nfrom torch.utils.data import TensorDataset\n"
        "def make(n):\n    part = TensorDataset(torch.ones(n, 2), torch.zeros(n, 1))\n    return part, part\n"
    )
    words = ["node", "add-dataset", "guy-s-hospital", "python", "--function", f"{source}:make", "--tags", "lab"]
    assert "7 train, 7 test" in run(*words, "--arguments", '{"n": 7}')
