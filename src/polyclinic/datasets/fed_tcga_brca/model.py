"""A linear Cox model: the risk score w·x + b, 40 parameters (b has no effect on the loss)."""

from __future__ import annotations

from torch import Tensor, nn


class Baseline(nn.Module):
    """(batch, 39) features -> (batch, 1) risk score; higher is worse."""

    def __init__(self, input_dim: int = 39, output_dim: int = 1) -> None:
        super().__init__()
        self.linear = nn.Linear(input_dim, output_dim)

    def forward(self, x: Tensor) -> Tensor:
        risk: Tensor = self.linear(x)
        return risk
