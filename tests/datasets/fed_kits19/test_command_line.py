"""From made-up raw data to a model that is judged, by the command line; a tiny model in place of the baseline."""

from __future__ import annotations

import pytest
from torch import nn
from typer.testing import CliRunner

from polyclinic import Experiment, FedAverage, TorchTrainingPlan
from polyclinic.cli import app
from polyclinic.datasets.fed_kits19 import BaselineLoss, Optimizer, sliding_window_predict
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import ConfigError, DatasetError
from polyclinic.federation.places import local_federation

PATCH = (16, 32, 32)


class TinyPlan(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = nn.Conv3d(1, 3, kernel_size=3, padding=1)
        self.loss = BaselineLoss()
        self.optimizer = Optimizer(self.parameters())

    def training_data(self, dataset):
        return dataset.with_patch_size(PATCH)

    def training_step(self, patch, labels):
        return self.loss(self.model(patch), labels)

    def predict(self, volume):
        return sliding_window_predict(self.model, volume, PATCH)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLYCLINIC_FEDERATION", str(tmp_path / "federation"))

    def run(*words):
        result = CliRunner().invoke(app, [*words])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output

    return run


def test_mock_prepare_create_run_evaluate(run, tmp_path):
    run("dataset", "mock", "fed_kits19", "--to", "raw", "--patients-per-center", "2")
    run("dataset", "prepare", "fed_kits19", "--from", "raw", "--to", "ready")
    output = run("federation", "create", "fed_kits19", "--data", "ready", "--tags", "kits", "--centers", "0,site 67")
    assert "site 67" in output
    experiment = Experiment(
        TinyPlan,
        tags=["kits"],
        training_args={"batch_size": 2, "lr": 0.01, "num_updates": 1},
        round_limit=1,
        aggregator=FedAverage(),
    )
    experiment.run()
    evaluation = experiment.evaluate()
    values = [estimates["dice"] for estimates in evaluation.nodes.values()]
    assert len(values) == 2
    assert all(0 <= value.value <= 1 and value.num_samples == 1 for value in values)
    assert evaluation.pooled["dice"].value == pytest.approx(sum(value.value for value in values) / 2)
    assert evaluation.pooled["dice"].exact


def test_the_card_is_shown(run):
    output = run("dataset", "info", "fed_kits19")
    assert "30,785,984 parameters" in output
    assert "CC BY-NC-SA 4.0" in output


def test_its_own_options_go_through_every_command(run):
    run("dataset", "mock", "fed_kits19", "--to", "raw", "--patients-per-center", "2")
    own, patch = '{"statistics": "own"}', '{"statistics": "own", "patch_size": [16, 24, 32]}'
    run("dataset", "prepare", "fed_kits19", "--from", "raw", "--to", "own", "--options", own)
    with pytest.raises(DatasetError, match="statistics"):
        FederatedDataset.load("fed_kits19").build(0, data_path="own")
    run("federation", "create", "fed_kits19", "--data", "own", "--centers", "0", "--options", patch)
    dataset = local_federation().each_node()[0].registry.datasets()[0]
    assert dataset.found.shape == (1, 16, 24, 32)
    assert "16 x 24 x 32" in run("dataset", "describe", "fed_kits19", "--data", "own", "--options", patch)
    run("dataset", "split", "fed_kits19", "--data", "own", "--into", "2", "--to", "two", "--options", patch)
    assert FederatedDataset.load("two").build(0)[0][0].shape == (1, 16, 24, 32)


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "takes a JSON object, not {"), ("[1]", "takes a JSON object"), ('{"statistcs": "own"}', "'statistics'")],
)
def test_options_that_are_none(tmp_path, text, why):
    words = ["dataset", "prepare", "fed_kits19", "--from", str(tmp_path), "--to", str(tmp_path), "--options", text]
    caught = CliRunner().invoke(app, words).exception
    assert isinstance(caught, ConfigError)
    assert why in str(caught)
