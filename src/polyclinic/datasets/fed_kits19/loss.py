"""Cross entropy plus soft Dice loss, nnU-Net's DC_and_CE.

With p the softmax of the logits and t the one-hot target, TP, FP and FN summed over the whole batch,

    loss = cross entropy - mean over kidney and tumour of (2 TP + 1e-5) / (2 TP + FP + FN + 1e-5 + 1e-8)

It lies in [-1, infinity). Isensee et al., nnU-Net, Nature Methods 2021, 18:203-211, after Drozdzal et al., DLMIA 2016,
arXiv:1608.04117.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_SMOOTH = 1e-5


class BaselineLoss(nn.Module):
    """(batch, 3, z, y, x) logits and (batch, 1, z, y, x) labels 0, 1, 2 of any dtype -> scalar.

    A class that is nowhere in the batch and predicted nowhere adds -1/2, as a perfect one does.
    """

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        labels = target[:, 0].long()
        p = softmax_helper(prediction)
        axes = (0, 2, 3, 4)
        t = F.one_hot(labels, prediction.shape[1]).movedim(-1, 1)
        true_positive = (p * t).sum(axes)
        # 2 TP + FP + FN is the sum of both masks.
        both = p.sum(axes) + t.sum(axes)
        dice = (2 * true_positive + _SMOOTH) / (both + _SMOOTH + 1e-8)
        return F.cross_entropy(prediction, labels) - dice[1:].mean()


def softmax_helper(logits: Tensor) -> Tensor:
    """Softmax over axis 1, the classes."""
    return torch.softmax(logits, dim=1)
