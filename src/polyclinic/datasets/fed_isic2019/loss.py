"""Focal loss with weighted classes.

With p the softmax of the scores and t the true class,

    loss = mean over the batch of  - alpha[t] (1 - p[t])^gamma log p[t],   alpha[c] = N / n[c],  gamma = 2

Lin et al., Focal Loss for Dense Object Detection, ICCV 2017, arXiv:1708.02002.

The default alpha is that of FLamby, of the training images of all centers together: whoever uses it tells every
center how frequent each diagnosis is in the whole federation. Where this may not be known, give other weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# MEL, NV, BCC, AK, BKL, DF, VASC, SCC; 18,597 in all.
TRAIN_CLASS_COUNTS = (3332, 9084, 2649, 712, 1950, 184, 201, 485)


def class_weights(counts: Sequence[int]) -> Tensor:
    """N / n of each class, float32 (classes,)."""
    numbers = torch.tensor(counts, dtype=torch.float64)
    return (numbers.sum() / numbers).float()


class BaselineLoss(nn.Module):
    """Scores (batch, 8), before any softmax, and classes (batch,) or (batch, 1) int64 -> scalar.

    Args:
        alpha: weight of each class; by default N / n over the pooled training images.
        gamma: 0 is weighted cross-entropy; larger, and easy images count less.
    """

    alpha: Tensor

    def __init__(self, alpha: Sequence[float] | None = None, gamma: float = 2.0) -> None:
        super().__init__()
        weights = class_weights(TRAIN_CLASS_COUNTS) if alpha is None else torch.tensor(alpha, dtype=torch.float32)
        # Not in the state: it is no part of what is learned, and must not be averaged.
        self.register_buffer("alpha", weights, persistent=False)
        self.gamma = gamma

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        true = target.reshape(-1).long()
        log_p = F.log_softmax(prediction, dim=1).gather(1, true[:, None])[:, 0]
        # In `alpha`'s own precision and place, also where the plan has not moved the loss to the model's device.
        alpha = self.alpha.to(prediction)[true]
        return (-alpha * (1 - log_p.exp()) ** self.gamma * log_p).mean()
