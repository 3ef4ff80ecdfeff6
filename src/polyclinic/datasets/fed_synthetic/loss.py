"""Cross-entropy: mean over the batch of -log softmax(scores)[class]."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polyclinic.errors import TrainingError


class BaselineLoss(nn.Module):
    """(batch, classes) scores and (batch, 1) or (batch,) class numbers of any dtype -> scalar.

    Raises:
        TrainingError: the targets are not class numbers, for example those of a regression.
    """

    def forward(self, scores: Tensor, target: Tensor) -> Tensor:
        flat = target.reshape(-1)
        labels = flat.long()
        # Rounded in silence, a regression's targets would make a classifier of nonsense.
        if not torch.equal(labels.to(flat.dtype), flat) or bool(((labels < 0) | (labels >= scores.shape[1])).any()):
            raise TrainingError(
                f"targets are not class numbers from 0 to {scores.shape[1] - 1}",
                to_do="for a generated regression, write a plan with a model of one output and a squared error; for "
                "more classes, give Baseline as many outputs",
            )
        return F.cross_entropy(scores, labels)
