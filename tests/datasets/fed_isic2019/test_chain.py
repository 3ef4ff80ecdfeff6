"""From made-up raw data to an evaluated model, by the command line."""

from __future__ import annotations

import pytest
import torch
from typer.testing import CliRunner

from polyclinic import Experiment, FedAverage, TorchTrainingPlan
from polyclinic.cli import app
from polyclinic.datasets.fed_isic2019 import LR, Baseline, BaselineLoss, Optimizer


class SkinPlan(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = Baseline()
        self.loss = BaselineLoss()
        self.optimizer = Optimizer(self.parameters())

    def training_step(self, image, diagnosis):
        return self.loss(self.model(image), diagnosis)


def run(*words):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))
    assert result.exit_code == 0, (words, result.output, result.exception)
    return result.output


def test_mock_create_run_evaluate(tmp_path, monkeypatch):
    monkeypatch.setenv("POLYCLINIC_FEDERATION", str(tmp_path / "federation"))
    monkeypatch.setenv("POLYCLINIC_WEIGHTS", "none")
    raw = str(tmp_path / "raw")
    run("dataset", "mock", "fed_isic2019", "--to", raw, "--patients-per-center", "2")
    prepared = str(tmp_path / "prepared")
    assert "Prepared" in run("dataset", "prepare", "fed_isic2019", "--from", raw, "--to", prepared)
    output = run("federation", "create", "fed_isic2019", "--data", prepared, "--tags", "skin", "--centers", "0,4")
    assert "MSK" in output
    experiment = Experiment(
        SkinPlan,
        tags=["skin"],
        training_args={"batch_size": 1, "lr": LR, "num_updates": 1},
        round_limit=1,
        aggregator=FedAverage(),
        folder=tmp_path / "run",
    )
    before = [parameter.clone() for parameter in experiment.model().parameters()]
    experiment.run()
    assert any((a != b).any() for a, b in zip(experiment.model().parameters(), before, strict=True))
    assert all(torch.isfinite(tensor).all() for tensor in experiment.model().state_dict().values())
    pooled = experiment.evaluate().pooled
    assert 0 <= pooled["balanced_accuracy"].value <= 1
    assert pooled["balanced_accuracy"].num_samples == 2


@pytest.mark.parametrize("options", [[], ["--flamby-compatible"]])
def test_a_bad_image_is_listed_at_the_end(options, raw, tmp_path, monkeypatch):
    import shutil

    mine = shutil.copytree(raw, tmp_path / "raw")
    bad = sorted((mine / "ISIC_2019_Training_Input").iterdir())[0]
    bad.write_bytes(b"no image")
    output = run("dataset", "prepare", "fed_isic2019", "--from", str(mine), "--to", str(tmp_path / "out"), *options)
    assert f"Left out: {bad.stem}: its JPEG file is damaged" in output


def test_info_shows_the_dataset_without_looking_for_weights(monkeypatch):
    monkeypatch.delenv("POLYCLINIC_WEIGHTS", raising=False)
    monkeypatch.setattr("polyclinic.datasets.fed_isic2019.model.find_weights", lambda: pytest.fail("looked for"))
    output = run("dataset", "info", "fed_isic2019")
    assert "4,017,796 parameters" in output
    assert "9 of 100 updates" in output
    assert "HAM_vienna_dias" in output
