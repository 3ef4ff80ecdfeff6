"""A training plan in PyTorch: what a researcher subclasses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.utils.data import Dataset

from polyclinic.errors import PlanError


class TorchTrainingPlan(torch.nn.Module):
    """Model, loss, optimizer and steps of a federated experiment.

    A subclass sets ``self.model``, ``self.loss`` (if it likes) and ``self.optimizer`` in ``__init__`` and writes
    `training_step`. All parameters and buffers of the plan, the loss's too, are trained and averaged. The learning
    rate, batch size and number of epochs come from the experiment's ``training_args``.

    Example::

        class Plan(TorchTrainingPlan):
            def __init__(self, model_args):
                super().__init__(model_args)
                self.model = nn.Linear(model_args["features"], 1)
                self.optimizer = torch.optim.SGD(self.parameters(), lr=0.1)

            def training_step(self, x, y):
                return F.binary_cross_entropy_with_logits(self.model(x), y)
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, model_args: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.model_args = dict(model_args or {})
        self.dependencies: tuple[str, ...] = ()

    def add_dependency(self, lines: Iterable[str]) -> None:
        """Declares import lines by hand that the plan's text shall begin with; most plans need none."""
        self.dependencies += tuple(lines)

    def training_step(self, *batch: Any) -> torch.Tensor:  # noqa: ARG002  (the signature is what authors override)
        """The loss of one batch, as a scalar tensor. ``batch`` is what the node's dataset yields, collated."""
        raise PlanError(
            f"{type(self).__name__} has no training_step",
            to_do="write training_step(self, x, y) that returns the batch's loss",
        )

    def testing_step(self, *batch: Any) -> torch.Tensor:
        """The loss of one test batch (a scalar, averaged over samples). Default: `training_step`'s."""
        return self.training_step(*batch)

    def predict(self, *inputs: Any) -> torch.Tensor:
        """Predictions for a batch's inputs (all of the batch but the target). Default: the model's output.

        Metrics take probabilities: (n,) or (n, 1) of the positive class, or (n, C) class scores.
        """
        prediction: torch.Tensor = self.model(*inputs)
        return prediction

    def forward(self, *inputs: Any) -> torch.Tensor:
        """The same as `predict`."""
        return self.predict(*inputs)

    def training_data(self, dataset: Dataset[Any]) -> Dataset[Any]:
        """What to train on, made from the node's training dataset; for example augmented. Default: as it is."""
        return dataset
