"""The training plans of benchmark runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from polyclinic.datasets.baseline_plan import BaselinePlan
from polyclinic.errors import ConfigError

OPTIMIZERS = ("sgd", "momentum", "adam", "own")


class SgdPlan(BaselinePlan):
    """A dataset's Baseline and BaselineLoss, trained by plain SGD; the learning rate comes from ``training_args``."""

    def __init__(self, model_args: Mapping[str, Any]) -> None:
        super().__init__(model_args)
        self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)


class TunedPlan(BaselinePlan):
    """A dataset's Baseline and BaselineLoss with an optimizer by name; its learning rate comes from ``training_args``.

    Args:
        model_args: ``dataset``, and ``optimizer``: "sgd", "momentum" (SGD with 0.9), "adam" or "own", the dataset's.
    """

    def __init__(self, model_args: Mapping[str, Any]) -> None:
        super().__init__(model_args)
        name = model_args["optimizer"]
        if name not in OPTIMIZERS:
            raise ConfigError(f"there is no optimizer {name!r}", to_do=f"choose one of {', '.join(OPTIMIZERS)}")
        if name == "adam":
            self.optimizer = torch.optim.Adam(self.parameters(), lr=0.001)
        elif name != "own":
            self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9 if name == "momentum" else 0.0)
