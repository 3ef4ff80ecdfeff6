"""FedBN: normalisation layers stay at the nodes.

All tensors of the plan's normalisation layers, weights and statistics, are trained and kept by each node for itself;
all others are averaged as in `FedAverage`. For nodes whose images or measurements differ in scale, contrast or device.

Li et al., FedBN: Federated Learning on Non-IID Features via Local Batch Normalization, ICLR 2021, arXiv:2102.07623.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from polyclinic.aggregators.fed_average import FedAverage
from polyclinic.aggregators.settings import Weights
from polyclinic.errors import ConfigError

# BatchNorm and InstanceNorm of all dimensions, SyncBatchNorm, and classes that are made from them.
_BATCH = (nn.modules.batchnorm._NormBase,)
_EVERY = (*_BATCH, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


class FedBN(FedAverage):
    """Averages all layers but those that normalise.

    Args:
        every_norm: False: BatchNorm and InstanceNorm, as in the paper; True: GroupNorm, LayerNorm and RMSNorm as well.
        weights: as in `FedAverage`.

    Raises:
        ConfigError: for other weights; or, as the experiment begins, for a plan without such layers.
    """

    def __init__(self, *, every_norm: bool = False, weights: Weights = "num_samples") -> None:
        super().__init__(weights=weights)
        self.every_norm = every_norm

    @property
    def settings(self) -> dict[str, Any]:
        return {"every_norm": self.every_norm, **super().settings}

    def local_layers(self, plan: torch.nn.Module) -> Collection[str]:
        kinds = _EVERY if self.every_norm else _BATCH
        found = [(name, m) for name, m in plan.named_modules(remove_duplicate=False) if isinstance(m, kinds)]
        names = [name for prefix, module in found for name in module.state_dict(prefix=f"{prefix}.")]
        if not names:
            title = "normalisation layer with weights or statistics" if self.every_norm else "BatchNorm layer"
            raise ConfigError(
                f"FedBN keeps normalisation layers at the nodes, and the plan has no {title}",
                to_do="take FedAverage" if self.every_norm else "write FedBN(every_norm=True) to keep others as well",
            )
        return names
