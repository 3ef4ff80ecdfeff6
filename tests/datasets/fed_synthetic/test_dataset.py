from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.model_selection import train_test_split

from polyclinic import Experiment, TorchTrainingPlan
from polyclinic.datasets.fed_synthetic import (
    CARD,
    Baseline,
    BaselineLoss,
    FedSynthetic,
    Optimizer,
    Options,
    SyntheticRaw,
    ensure_prepared,
    generate,
    mock,
    prepare,
    synthetic_data,
)
from polyclinic.errors import ConfigError, DatasetError


class Plan(TorchTrainingPlan):
    def __init__(self, model_args):
        super().__init__(model_args)
        self.model = Baseline()
        self.loss = BaselineLoss()
        self.optimizer = Optimizer(self.parameters())

    def training_step(self, x, y):
        return self.loss(self.model(x), y)


@pytest.mark.parametrize("center", range(4))
def test_the_default_set_needs_no_file_and_has_the_counts_of_its_card(center):
    for part in (0, 1):
        dataset = FedSynthetic(center=center, train=part == 0)
        assert len(dataset) == CARD.samples[center][part]
        x, y = dataset[0]
        assert (x.shape, y.shape, x.dtype, y.dtype) == ((10,), (1,), torch.float32, torch.float32)
    assert FedSynthetic(dtype=torch.float64)[0][1].dtype == torch.float64


def test_the_split_is_that_of_the_heart_data_with_class_0_against_the_rest():
    x, y = synthetic_data(Options())[2]
    train, _ = train_test_split(
        np.arange(250), test_size=1 - 0.66, train_size=0.66, random_state=43, stratify=(y[:, 0] != 0).astype(int)
    )
    ours, _ = FedSynthetic(center=2, dtype=torch.float64).tensors
    assert torch.equal(ours, torch.tensor(x[sorted(train)]))


def test_pooled_data_are_the_centers_one_after_the_other():
    for train in (True, False):
        pooled = FedSynthetic(pooled=True, train=train).tensors
        parts = [FedSynthetic(center=center, train=train).tensors for center in range(4)]
        for k in (0, 1):
            assert torch.equal(pooled[k], torch.cat([part[k] for part in parts]))
    raw = SyntheticRaw()
    assert len(raw) == 1000
    assert (raw.sets == "train").sum() == 660
    assert np.bincount(raw.centers).tolist() == [250] * 4


def test_a_folder_is_read_back_to_the_last_bit_with_all_arguments_beside_it(tmp_path):
    options = {"n_centers": 6, "n_samples": 120, "sample_repartition": [1, 2, 1, 1, 3, 1], "label_heterogeneity": 5.0}
    folder = generate(tmp_path / "made", seed=3, **options)
    raw = SyntheticRaw(data_path=folder, dtype=torch.float64)
    expected = synthetic_data(Options(seed=3, **options))
    assert torch.equal(raw.tensors[0], torch.tensor(np.concatenate([x for x, _ in expected])))
    assert torch.equal(raw.tensors[1], torch.tensor(np.concatenate([y for _, y in expected])))
    arguments = json.loads((folder / "arguments.json").read_text())
    assert arguments["sample_repartition"] == [1, 2, 1, 1, 3, 1]
    assert Options(**arguments) == Options(seed=3, **options)
    assert (folder / "5.data").is_file()


def test_mock_with_the_default_seed_is_the_set_that_needs_no_file(tmp_path):
    made = mock(tmp_path / "raw")
    ready = prepare(made, tmp_path / "ready")
    assert ensure_prepared(ready) == ready
    assert (ready / "arguments.json").is_file()
    torch.testing.assert_close(FedSynthetic(center=1, data_path=ready).tensors, FedSynthetic(center=1).tensors)
    assert ensure_prepared(None) is None
    with pytest.raises(ConfigError, match="1 samples cannot be split"):
        mock(tmp_path / "other", patients_per_center=1)


def test_a_generated_folder_is_never_mixed_with_another(tmp_path):
    generate(tmp_path, n_samples=40)
    with pytest.raises(DatasetError, match="holds data already"):
        generate(tmp_path, n_samples=40, n_centers=2)
    with pytest.raises(ConfigError, match="n_centres"):
        generate(tmp_path / "new", n_centres=3)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no file like 0.data"),
        ({"1.data": "1,2\n2,1\n"}, "lacks 0.data"),
        ({"0.data": ""}, "cannot be read as a table"),
        ({"0.data": "1\n2\n3\n"}, "one column, where features and a target must be"),
        ({"0.data": "1,x\n2,1\n"}, "missing values or text in 1 columns, first of all column 1"),
        ({"0.data": "1,\n2,1\n"}, "missing values or text"),
        ({"0.data": "1,2\n"}, "has 1 samples, which cannot be split"),
    ],
)
def test_folders_that_cannot_be_read_say_why(tmp_path, files, message):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DatasetError, match=message):
        FedSynthetic(data_path=tmp_path)


def test_pooling_centers_of_different_width_is_refused(tmp_path):
    (tmp_path / "0.data").write_text("1,2,0\n3,4,1\n5,6,0\n")
    (tmp_path / "1.data").write_text("1,2\n3,4\n5,6\n")
    assert len(FedSynthetic(center=1, data_path=tmp_path)) == 1
    with pytest.raises(DatasetError, match="different numbers of features: 1, 2"):
        FedSynthetic(pooled=True, data_path=tmp_path)
    with pytest.raises(ConfigError, match="center 2 is out of range"):
        FedSynthetic(center=2, data_path=tmp_path)


def test_a_hospital_needs_its_own_file_alone(tmp_path):
    made = generate(tmp_path / "made", n_samples=40)
    own = tmp_path / "own"
    own.mkdir()
    (made / "2.data").rename(own / "2.data")
    assert ensure_prepared(own) == own
    assert len(FedSynthetic(center=2, data_path=own)) == 6
    with pytest.raises(DatasetError, match=r"lacks 0\.data, 1\.data"):
        FedSynthetic(pooled=True, data_path=own)


def test_a_transform_sees_each_row():
    plain, doubled = FedSynthetic(), FedSynthetic(transform=lambda x: 2 * x)
    assert torch.equal(doubled[3][0], 2 * plain[3][0])


def test_by_the_command_line_a_folder_of_five_centers_becomes_five_nodes_that_learn(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from polyclinic.cli import app

    monkeypatch.setenv("POLYCLINIC_FEDERATION", str(tmp_path / "federation"))
    folder = generate(tmp_path / "data", n_centers=5, n_samples=150, label_heterogeneity=3.0)
    result = CliRunner().invoke(app, ["federation", "create", "fed_synthetic", "--data", str(folder), "--tags", "made"])
    assert result.exit_code == 0, result.output
    assert "Made 5 nodes" in result.output
    experiment = Experiment(
        Plan, tags=["made"], training_args={"batch_size": 8, "lr": 0.1, "num_updates": 10}, round_limit=2,
        folder=tmp_path / "run", observers=[],
    )  # fmt: skip
    experiment.run()
    evaluation = experiment.evaluate()
    assert set(evaluation.nodes) == {f"center {k}" for k in range(5)}
    assert evaluation.pooled["accuracy"].value > 0.8


def test_by_the_command_line_mock_writes_the_default_format(tmp_path):
    from typer.testing import CliRunner

    from polyclinic.cli import app

    words = ["dataset", "mock", "fed_synthetic", "--to", str(tmp_path / "made"), "--patients-per-center", "9"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "made").iterdir()) == [*(f"{k}.data" for k in range(4)), "arguments.json"]


def test_by_the_command_line_all_options_of_the_generator_work(tmp_path):
    from typer.testing import CliRunner

    from polyclinic.cli import app

    line = (
        "dataset generate --centers 3 --samples 90 --features 4 --clusters 2 --seed 5 --sample-repartition 3,1,2 "
        "--noise-heterogeneity 1,2,3 --features-heterogeneity 0.5 --label-heterogeneity 2"
    )
    result = CliRunner().invoke(app, [*line.split(), "--to", str(tmp_path / "made")])
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "made" / "arguments.json").read_text())
    expected = Options(
        n_centers=3, n_samples=90, n_features=4, n_clusters=2, seed=5, sample_repartition=[3.0, 1.0, 2.0],
        noise_heterogeneity=[1.0, 2.0, 3.0], features_heterogeneity=0.5, label_heterogeneity=2.0,
    )  # fmt: skip
    assert Options(**written) == expected
    for number, (_, y) in enumerate(synthetic_data(expected)):
        assert len((tmp_path / "made" / f"{number}.data").read_text().splitlines()) == len(y)

    line = "dataset generate --regression --sample-repartition 2.5 --flamby-compatible"
    result = CliRunner().invoke(app, [*line.split(), "--to", str(tmp_path / "law")])
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "law" / "arguments.json").read_text())
    assert (written["sample_repartition"], written["classification"], written["flamby_compatible"]) == (
        2.5,
        False,
        True,
    )


@pytest.mark.parametrize("words", ["--sample-repartition 3,x", "--noise-heterogeneity 1;2"])
def test_the_command_says_how_lists_are_written(tmp_path, words):
    from typer.testing import CliRunner

    from polyclinic.cli import app

    result = CliRunner().invoke(app, ["dataset", "generate", "--to", str(tmp_path / "made"), *words.split()])
    assert isinstance(result.exception, ConfigError)
    assert "takes numbers with commas between them" in str(result.exception)
    assert not (tmp_path / "made").exists()
