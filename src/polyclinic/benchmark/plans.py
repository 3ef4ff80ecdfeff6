"""The training plans of benchmark runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from polyclinic.datasets.baseline_plan import BaselinePlan


class SgdPlan(BaselinePlan):
    """A dataset's Baseline and BaselineLoss, trained by plain SGD; the learning rate comes from ``training_args``."""

    def __init__(self, model_args: Mapping[str, Any]) -> None:
        super().__init__(model_args)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
