"""Logistic regression: sigmoid(w·x + b), 14 parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Baseline(nn.Module):
    """(batch, 13) standardised features -> (batch, 1) probability of disease."""

    def __init__(self, input_dim: int = 13, output_dim: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(x))
