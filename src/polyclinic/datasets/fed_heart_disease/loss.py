"""Binary cross-entropy of a probability: mean over the batch of -[y log p + (1 - y) log(1 - p)]."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class BaselineLoss(nn.Module):
    """(batch, 1) probabilities and (batch, 1) targets 0 or 1 -> scalar."""

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy(prediction, target)
