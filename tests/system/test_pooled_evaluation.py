"""What is pooled from counts is what scikit-learn says of all test rows together, which nobody has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics

from polyclinic import Experiment, TorchTrainingPlan, simulate
from polyclinic.datasets.fed_heart_disease import Baseline, BaselineLoss, FedClass, Optimizer


class Plan(TorchTrainingPlan):
    def __init__(self, model_args: dict[str, Any]) -> None:
        super().__init__(model_args)
        self.model = Baseline()
        self.loss = BaselineLoss()
        self.optimizer = Optimizer(self.parameters())

    def training_step(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.loss(self.model(x), y)


@pytest.mark.parametrize("split", ["test", "train"])
def test_pooled_metrics_are_those_of_the_concatenated_data(tmp_path: Path, split: Any) -> None:
    federation = simulate("fed_heart_disease")
    args = {"batch_size": 4, "lr": 0.01, "num_updates": 100}
    experiment = Experiment(Plan, training_args=args, federation=federation, folder=tmp_path / "run", observers=[])
    experiment.run(rounds=3)
    found = experiment.evaluate(split, metrics=["accuracy", "balanced_accuracy", "roc_auc", "log_loss", "loss"])

    model = experiment.model()
    centers = [FedClass(center=k, train=split == "train") for k in range(4)]
    rows = [row for center in centers for row in (center[i] for i in range(len(center)))]
    target = np.array([float(y) for _, y in rows])
    with torch.no_grad():
        score = np.concatenate([model(x[None]).numpy().ravel() for x, _ in rows]).astype(float)
    assert len(target) == {"test": 254, "train": 486}[split]
    assert {estimate.num_samples for estimate in found.pooled.values()} == {len(target)}

    expected = {
        "accuracy": metrics.accuracy_score(target, score > 0.5),
        "balanced_accuracy": metrics.balanced_accuracy_score(target, score > 0.5),
        "roc_auc": metrics.roc_auc_score(target, score),
        "log_loss": metrics.log_loss(target, score),
        "loss": metrics.log_loss(target, score),
    }
    for name, value in expected.items():
        estimate = found.pooled[name]
        assert estimate.value == pytest.approx(value, abs=estimate.error_bound + 1e-6), name
        assert estimate.error_bound < 1e-3, name
        assert estimate.low < value < estimate.high, name
    assert expected["accuracy"] > 0.7
