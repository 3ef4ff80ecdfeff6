"""FedYogi: Yogi at the server.

Of the FedOpt family (see `fed_opt`), with  v  <-  v − (1 − beta2) D² sign(v − D²).

v falls by no more than (1 − beta2) D² in a round, so after a large step it stays large for longer than FedAdam's.

Reddi et al., Adaptive Federated Optimization, ICLR 2021, arXiv:2003.00295.
"""

from __future__ import annotations

import torch

from polyclinic.aggregators.fed_opt import FedOpt


class FedYogi(FedOpt):
    """Moves each parameter by about ``server_lr`` in a round; careful after a round of large steps.

    Its arguments are those of `FedOpt`.
    """

    def second_moment(self, v: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
        return v - (1 - self.beta2) * squared * torch.sign(v - squared)
