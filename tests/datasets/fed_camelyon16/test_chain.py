"""From made-up slides to an evaluated model, by the command line."""

from __future__ import annotations

import torch
from typer.testing import CliRunner

from polyclinic import Experiment, FedAverage, TorchTrainingPlan
from polyclinic.cli import app
from polyclinic.datasets.fed_camelyon16 import LR, Baseline, BaselineLoss, Optimizer


class SlidePlan(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = Baseline()
        self.loss = BaselineLoss()
        self.optimizer = Optimizer(self.parameters())

    def training_step(self, tiles, label):
        return self.loss(self.model(tiles), label)


def run(*words):
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, list(words))
    assert result.exit_code == 0, (words, result.output, result.exception)
    return result.output


def test_mock_prepare_create_run_evaluate(tmp_path, monkeypatch, tiny_encoder):
    monkeypatch.setenv("POLYCLINIC_FEDERATION", str(tmp_path / "federation"))
    raw, prepared = str(tmp_path / "raw"), str(tmp_path / "prepared")
    run("dataset", "mock", "fed_camelyon16", "--to", raw, "--patients-per-center", "4")
    (tmp_path / "raw" / "normal_002.tif").write_text("no slide")
    output = run("dataset", "prepare", "fed_camelyon16", "--from", raw, "--to", prepared, "--weights", "random")
    assert "Left out: normal_002: normal_002.tif is no slide that OpenSlide can read" in output
    output = run("federation", "create", "fed_camelyon16", "--data", prepared, "--tags", "nodes")
    assert "RUMC" in output
    assert "UMCU" in output
    experiment = Experiment(
        SlidePlan,
        tags=["nodes"],
        training_args={"batch_size": 2, "lr": LR, "num_updates": 1},
        round_limit=1,
        aggregator=FedAverage(),
        folder=tmp_path / "run",
    )
    before = [parameter.clone() for parameter in experiment.model().parameters()]
    experiment.run()
    assert any((a != b).any() for a, b in zip(experiment.model().parameters(), before, strict=True))
    assert all(torch.isfinite(tensor).all() for tensor in experiment.model().state_dict().values())
    pooled = experiment.evaluate().pooled["roc_auc"]
    assert 0 <= pooled.value <= 1
    assert pooled.num_samples == 4
