from __future__ import annotations

import pytest
from typer.testing import CliRunner, Result

from polyclinic.cli.dataset import app
from polyclinic.datasets.fed_ixi.subjects import open_raw
from polyclinic.errors import ConfigError, DatasetError


def run(*args: object) -> Result:
    # Wide, so that no table cell is broken over lines.
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(arg) for arg in args], catch_exceptions=True)


def flat(result: Result) -> str:
    return " ".join(result.output.split())


def test_list_names_every_dataset_with_its_size():
    result = run("list")
    assert result.exit_code == 0
    for name, train, test in (("fed_heart_disease", 486, 254), ("fed_ixi", 453, 113), ("fed_tcga_brca", 866, 222)):
        line = next(line for line in result.output.splitlines() if name in line)
        assert str(train) in line
        assert str(test) in line


def test_info_shows_the_facts():
    result = run("info", "fed_heart_disease")
    assert result.exit_code == 0
    for fact in ("CC BY 4.0", "polyclinic[torch]", "14 parameters, Adam, lr 0.001", "15 of 100 updates", "Hungary"):
        assert fact in flat(result)


def test_info_of_an_unknown_dataset_names_the_nearest():
    result = run("info", "fed_ixy")
    assert isinstance(result.exception, DatasetError)
    assert "did you mean 'fed_ixi'?" in str(result.exception)


def test_mock_then_prepare_is_the_whole_path(tmp_path):
    made, ready = tmp_path / "made", tmp_path / "ready"
    result = run("mock", "fed_ixi", "--to", made, "--patients-per-center", 2, "--seed", 3)
    assert result.exit_code == 0, result.output
    assert f"polyclinic federation create fed_ixi --data {made}" in flat(result)
    subject = open_raw(made).subjects[0]
    (made / subject.label).unlink()
    result = run("prepare", "fed_ixi", "--from", made, "--to", ready, "--workers", 2)
    assert result.exit_code == 0, result.output
    assert f"Left out: {subject.id}: it has no label file" in flat(result)
    assert f"Prepared: {ready}" in flat(result)
    assert (ready / "images.npy").exists()
    result = run("prepare", "fed_ixi", "--from", made, "--to", ready, "--flamby-compatible")
    assert isinstance(result.exception, DatasetError)
    assert "prepared in another way" in str(result.exception)


def test_an_option_of_another_dataset_is_refused(tmp_path):
    result = run("prepare", "fed_ixi", "--from", tmp_path, "--to", tmp_path / "to", "--encoder", "resnet50")
    assert isinstance(result.exception, ConfigError)
    assert "polyclinic dataset prepare fed_ixi has no option --encoder" in str(result.exception)
    result = run("download", "fed_ixi", "--to", tmp_path / "to", "--accept-license", "--slides", "tumor_001")
    assert "polyclinic dataset download fed_ixi has no option --slides" in str(result.exception)
    assert not (tmp_path / "to").exists()


@pytest.mark.parametrize("name", ["fed_heart_disease", "fed_tcga_brca"])
def test_tables_have_the_same_commands(tmp_path, name):
    assert run("mock", name, "--to", tmp_path / "made").exit_code == 0
    result = run("prepare", name, "--from", tmp_path / "made", "--to", tmp_path / "ready")
    assert result.exit_code == 0, result.output
    assert f"polyclinic federation create {name} --data {tmp_path / 'ready'}" in flat(result)


def test_made_up_patients_never_join_other_files(tmp_path):
    (tmp_path / "processed.va.data").write_text("real")
    result = run("mock", "fed_heart_disease", "--to", tmp_path)
    assert isinstance(result.exception, ConfigError)
    assert "is not an empty folder" in str(result.exception)
    assert (tmp_path / "processed.va.data").read_text() == "real"


def test_download_shows_the_licence_and_asks_nothing(tmp_path):
    result = run("download", "fed_ixi", "--to", tmp_path / "to")
    assert isinstance(result.exception, ConfigError)
    assert "https://creativecommons.org/licenses/by-sa/3.0/" in str(result.exception)
    assert not (tmp_path / "to").exists()


def test_a_download_says_what_comes_next(tmp_path, monkeypatch):
    from polyclinic.datasets import fed_tcga_brca

    def download(to, *, accept_license):
        assert accept_license
        return to

    monkeypatch.setattr(fed_tcga_brca, "download", download)
    result = run("download", "fed_tcga_brca", "--to", tmp_path, "--accept-license")
    assert result.exit_code == 0, result.output
    assert "Licence: GDC open access" in flat(result)
    assert f"polyclinic federation create fed_tcga_brca --data {tmp_path}" in flat(result)


@pytest.mark.parametrize("command", ["list", "info", "download", "prepare", "mock"])
def test_help_teaches(command):
    result = run(command, "--help")
    assert result.exit_code == 0
    assert "Example:" in result.output or command == "list"


def test_describe_shows_how_centers_differ_and_draws_it(tmp_path):
    result = run("describe", "fed_heart_disease", "--picture", tmp_path / "heart.png")
    assert result.exit_code == 0, result.output
    assert "Switzerland │ 30 │ 16 │ 2% │ 98%" in flat(result)
    assert (tmp_path / "heart.png").read_bytes()[:4] == b"\x89PNG"


def test_artificial_centers_are_made_described_and_become_nodes(tmp_path):
    from polyclinic.cli import app as whole

    made = run("split", "fed_heart_disease", "--into", 3, "--method", "linear", "--seed", 4, "--to", tmp_path / "three")
    assert made.exit_code == 0, made.output
    assert f"polyclinic federation create {tmp_path / 'three'}" in flat(made)
    assert {path.name for path in (tmp_path / "three").iterdir()} == {"split.json", "picture.png"}
    assert "linear 2" in flat(run("describe", tmp_path / "three" / "split.json"))
    place = ["--at", str(tmp_path / "place")]
    result = CliRunner(env={"COLUMNS": "200"}).invoke(whole, ["federation", "create", str(tmp_path / "three"), *place])
    assert result.exit_code == 0, result.output
    assert "linear-2 │ fed_heart_disease_linear_3 linear 2" in flat(result)
    assert "tags=['fed_heart_disease_linear_3']" in flat(result)
