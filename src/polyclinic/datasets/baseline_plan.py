"""The training plan of a federated dataset's own baseline."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.plans.torch_plan import TorchTrainingPlan


class BaselinePlan(TorchTrainingPlan):
    """A dataset's Baseline, BaselineLoss and Optimizer.

    Args:
        model_args: ``dataset``, its name, for example "fed_heart_disease".
    """

    def __init__(self, model_args: Mapping[str, Any]) -> None:
        super().__init__(model_args)
        dataset = FederatedDataset.load(model_args["dataset"])
        self.model = dataset.baseline()
        self.loss = dataset.baseline_loss()
        self.optimizer = dataset.optimizer(self.parameters(), lr=dataset.lr)

    def training_step(self, x: Any, y: Any) -> Any:
        return self.loss(self.model(x), y)
