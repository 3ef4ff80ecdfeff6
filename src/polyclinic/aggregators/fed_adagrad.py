"""FedAdagrad: Adagrad at the server.

Of the FedOpt family (see `fed_opt`), with  v  <-  v + D².

Reddi et al., Adaptive Federated Optimization, ICLR 2021, arXiv:2003.00295.
Differs: with beta1, which the paper set to 0.
"""

from __future__ import annotations

from typing import Any

import torch

from polyclinic.aggregators.fed_opt import FedOpt
from polyclinic.aggregators.settings import Weights


class FedAdagrad(FedOpt):
    """Moves each parameter by about ``server_lr`` in the first round, and by less the farther it has moved before.

    Its arguments are those of `FedOpt`, without ``beta2``: v forgets nothing.
    """

    def __init__(
        self, *, server_lr: float = 1e-2, beta1: float = 0.9, tau: float = 1e-3, weights: Weights = "num_samples"
    ) -> None:
        super().__init__(server_lr=server_lr, beta1=beta1, tau=tau, weights=weights)

    @property
    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in super().settings.items() if name != "beta2"}

    def second_moment(self, v: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
        return v + squared
