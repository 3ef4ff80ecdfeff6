"""Programs as users write them, run as they stand: our examples, and those that were written before the code."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polyclinic import cli
from polyclinic.datasets import fed_heart_disease, fed_ixi
from polyclinic.federation.places import create_nodes

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
FEATURES = "age,sex,cp,trestbps,chol,fbs,restecg,thalach,exang,oldpeak,slope,ca,thal"


def run_program(program: Path, place: Path, folder: Path, **environment: str) -> str:
    """What it prints; it works in ``folder``, with the nodes at ``place``."""
    settings = {**os.environ, "POLYCLINIC_FEDERATION": str(place), "COLUMNS": "150", **environment}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(program)], cwd=folder, env=settings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def polyclinic(*words: object) -> None:
    cli.app([str(word) for word in words], standalone_mode=False)


def three_tables(folder: Path) -> dict[str, Path]:
    """The heart table that comes with Polyclinic, one file a hospital."""
    with (Path(fed_heart_disease.__file__).parent / "heart_disease.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    tables = {}
    for hospital in ("cleveland", "hungarian", "va"):
        columns = [*FEATURES.split(","), "num"]
        lines = [",".join(row[name] for name in columns) for row in rows if row["center"].startswith(hospital[:4])]
        tables[hospital] = folder / f"{hospital}.csv"
        tables[hospital].write_text("\n".join([",".join(columns), *lines]) + "\n")
    return tables


def three_tables_as_published(folder: Path) -> dict[str, Path]:
    """The files of the UCI repository, with a line of names above."""
    tables = {}
    for hospital in ("cleveland", "hungarian", "va"):
        text = (SHARED / "data" / "heart_disease" / f"processed.{hospital}.data").read_text()
        tables[hospital] = folder / f"{hospital}.csv"
        tables[hospital].write_text(f"{FEATURES},num\n{text}")
    return tables


def add_nodes(place: Path, tables: dict[str, Path]) -> Path:
    for hospital, table in tables.items():
        polyclinic("node", "create", hospital, "--at", place)
        options = ["--path", table, "--target", "num", "--tags", "heart", "--name", f"{hospital} clinic"]
        polyclinic("node", "add-dataset", hospital, "tabular", *options, "--at", place)
    return place


@pytest.fixture(scope="module")
def brain_nodes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    raw = fed_ixi.mock(tmp_path_factory.mktemp("raw"), patients_per_center=2)
    place = tmp_path_factory.mktemp("nodes")
    create_nodes(place, "fed_ixi", data_path=raw, tags=["ixi"])
    return place


def acceptance(name: str) -> Path:
    program = SHARED / "acceptance" / name
    if not program.exists():
        pytest.skip(f"there is no {program} beside this checkout")
    return program


def test_example_of_own_data_and_own_model(tmp_path: Path) -> None:
    place = add_nodes(tmp_path / "nodes", three_tables(tmp_path))
    out = run_program(ROOT / "examples" / "own_data_own_model.py", place, tmp_path, ROUNDS="4")
    assert out.count("test data, model after round 4") == 2
    assert out.index("average in") < out.index("proximal in")
    assert len(list(tmp_path.glob("runs/*/curves.png"))) == 2


def test_example_of_brain_segmentation(brain_nodes: Path, tmp_path: Path) -> None:
    out = run_program(ROOT / "examples" / "brain_segmentation.py", brain_nodes, tmp_path, ROUNDS="1", EPOCHS="1")
    assert "test data, model after round 1" in out
    assert all(f"│ {hospital}" in out for hospital in ("Guys", "HH", "IOP", "pooled"))
    assert "voxels: (1, 2, 48, 60, 48)" in out


def test_acceptance_of_own_data_and_own_model(tmp_path: Path) -> None:
    program = acceptance("own_data_own_model.py")
    published = (SHARED / "data" / "heart_disease").exists()
    tables = three_tables_as_published(tmp_path) if published else three_tables(tmp_path)
    out = run_program(program, add_nodes(tmp_path / "nodes", tables), tmp_path)
    assert "plain test data, model after round 20" in out
    assert "proximal test data, model after round 20" in out
    assert "NO" not in out
    assert len(list(tmp_path.glob("runs/*/curves.png"))) == 2


def test_acceptance_of_brain_segmentation(brain_nodes: Path, tmp_path: Path) -> None:
    out = run_program(acceptance("using_fed_ixi.py"), brain_nodes, tmp_path, EPOCHS="1", ROUNDS="2")
    assert "test data, model after round 2" in out
    assert "246156 parameters" in out
    assert "│ pooled" in out
