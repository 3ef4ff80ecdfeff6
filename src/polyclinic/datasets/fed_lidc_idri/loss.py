"""Soft Dice and weighted cross-entropy, together.

With p the predicted probabilities and y the target of 0 and 1,

    loss = (1 - D) + 0.1 X
    D    = mean over the batch of  sum p y / U,   U = sum [ p y + (p (1 - y) + (1 - p) y) / 2 ];   1 where U = 0
    X    = - mean [ w y log p + (1 - y) log(1 - p) ],   w = 1 / mean y - 1

D sums over all axes but the first. w, over the whole batch, gives nodules and background the same weight in X.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_TINY = 1e-7


class BaselineLoss(nn.Module):
    """(batch, ...) probabilities and a target of the same shape, of 0 and 1 and any dtype -> scalar >= 0.

    Args:
        cross_entropy_weight: of X; FLamby's is 0.1.
    """

    def __init__(self, cross_entropy_weight: float = 0.1) -> None:
        super().__init__()
        self.cross_entropy_weight = cross_entropy_weight

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        y = target.to(prediction.dtype)
        return (1 - _dice(prediction, y)) + self.cross_entropy_weight * _cross_entropy(prediction, y)


def _dice(p: Tensor, y: Tensor) -> Tensor:
    overlap = (p * y).flatten(1).sum(1)
    # U is half of the sum of both masks.
    union = 0.5 * (p.flatten(1).sum(1) + y.flatten(1).sum(1))
    return torch.where(union == 0, 1.0, overlap / union.clamp_min(_TINY)).mean()


def _cross_entropy(p: Tensor, y: Tensor) -> Tensor:
    p = p.clamp(_TINY, 1 - _TINY)
    weight = 1 / y.mean().clamp_min(_TINY) - 1
    return -(weight * y * p.log() + (1 - y) * torch.log1p(-p)).mean()
