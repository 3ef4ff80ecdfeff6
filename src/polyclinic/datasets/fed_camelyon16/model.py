"""Gated-attention pooling over the tiles of a slide; 320,258 parameters for 2048 features, 156,418 for 768.

With tile features x_k, H = W x + b and n tiles,

    a_k = softmax_k( w^T ( tanh(V h_k) * sigmoid(U h_k) ) ),    z = sum_k a_k h_k,    logit = MLP(z)

Ilse, Tomczak, Welling, Attention-based Deep Multiple Instance Learning, ICML 2018, arXiv:1802.04712, equation 9.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MAX_TILES = 10_000  # to which FLamby pads every slide


class Baseline(nn.Module):
    """(batch, n, d) tile features -> (batch, 1) logits of a metastasis.

    Slides of a batch are padded with rows of zeros to one length. Such rows get no attention; a tile of a slide never
    has features that are all zero.

    Args:
        original_dimension: d, 2048 for ResNet-50 features, 768 for Phikon's.
        flamby_compatible: padding takes part in the attention, and there is as much of it as FLamby has, up to
            10,000 rows, however little the batch brings.
    """

    def __init__(self, original_dimension: int = 2048, *, flamby_compatible: bool = False) -> None:
        super().__init__()
        self.original_dimension = original_dimension
        self.flamby_compatible = flamby_compatible
        self.reduce = nn.Linear(original_dimension, 128)
        self.attention_v = nn.Linear(128, 128)
        self.attention_u = nn.Linear(128, 128)
        self.attention_w = nn.Linear(128, 1)
        self.classifier = nn.Sequential(nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.reduce(x)
        scores = self._scores(hidden)
        if self.flamby_compatible:
            if (absent := MAX_TILES - x.shape[1]) > 0:
                hidden, scores = self._with_padding(hidden, scores, absent)
        else:
            # Of all ways to ask whether a row is zero, the norm is the quickest by far.
            is_tile = torch.linalg.vector_norm(x.detach(), dim=2) != 0
            # Without a single tile there is nothing to attend to; all rows then count the same, and none is nan.
            is_tile = is_tile | ~is_tile.any(dim=1, keepdim=True)
            scores = scores.masked_fill(~is_tile.unsqueeze(2), -math.inf)
        bag = (torch.softmax(scores, dim=1) * hidden).sum(dim=1)
        logit: Tensor = self.classifier(bag)
        return logit

    def _scores(self, hidden: Tensor) -> Tensor:
        gated = torch.tanh(self.attention_v(hidden)) * torch.sigmoid(self.attention_u(hidden))
        scores: Tensor = self.attention_w(gated)
        return scores

    def _with_padding(self, hidden: Tensor, scores: Tensor, absent: int) -> tuple[Tensor, Tensor]:
        """One more row that weighs as much as ``absent`` rows of zeros, since m exp(s) = exp(s + log m)."""
        padding = self.reduce.bias.expand(len(hidden), 1, -1)
        score = self._scores(padding) + math.log(absent)
        return torch.cat([hidden, padding], dim=1), torch.cat([scores, score], dim=1)
