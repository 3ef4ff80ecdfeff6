"""Soft Dice loss over both channels.

With p the probabilities, t the one-hot target, TP = sum p t, FP = sum p (1 - t), FN = sum (1 - p) t over the three
spatial axes,

    loss = mean over batch and channels of 1 - 2 TP / (2 TP + FP + FN + 1e-9)

Milletari et al., V-Net, 3DV 2016, arXiv:1606.04797.
"""

from __future__ import annotations

from torch import Tensor, nn


class BaselineLoss(nn.Module):
    """(batch, 2, x, y, z) probabilities and one-hot target of the same shape -> scalar in [0, 1].

    A channel that is empty in the target and predicted anywhere costs 1, however little is predicted.
    """

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        axes = (2, 3, 4)
        true_positive = (prediction * target).sum(axes)
        # 2 TP + FP + FN is the sum of both masks.
        both = prediction.sum(axes) + target.sum(axes)
        return (1 - 2 * true_positive / (both + 1e-9)).mean()
