"""FedAdam: Adam at the server.

Of the FedOpt family (see `fed_opt`), with  v  <-  beta2 v + (1 − beta2) D².

Reddi et al., Adaptive Federated Optimization, ICLR 2021, arXiv:2003.00295.
"""

from __future__ import annotations

import torch

from polyclinic.aggregators.fed_opt import FedOpt


class FedAdam(FedOpt):
    """Moves each parameter by about ``server_lr`` in a round, in the direction of the nodes' steps.

    Its arguments are those of `FedOpt`.
    """

    def second_moment(self, v: torch.Tensor, squared: torch.Tensor) -> torch.Tensor:
        return self.beta2 * v + (1 - self.beta2) * squared
