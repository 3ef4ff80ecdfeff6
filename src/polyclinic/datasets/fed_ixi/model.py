"""A small 3-D U-Net, 246,156 parameters.

Çiçek et al., 3D U-Net, MICCAI 2016, arXiv:1606.06650. Three levels that start at 8 channels, two 3x3x3
convolutions a level of which the second doubles the channels, batch norm, PReLU, max pooling on the way down and
trilinear upsampling on the way up. The very first convolution has a bias and no batch norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def _convolution(n_in: int, n_out: int, *, norm: bool = True) -> nn.Sequential:
    # With a batch norm behind it, a bias would be subtracted again at once.
    layers: list[nn.Module] = [nn.Conv3d(n_in, n_out, kernel_size=3, padding=1, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm3d(n_out))
    return nn.Sequential(*layers, nn.PReLU())


def _block(channels: Sequence[int], *, first_norm: bool = True) -> nn.Sequential:
    n_in, middle, n_out = channels
    return nn.Sequential(_convolution(n_in, middle, norm=first_norm), _convolution(middle, n_out))


class Baseline(nn.Module):
    """(batch, 1, x, y, z) image -> (batch, 2, x, y, z) probabilities of background and brain.

    x, y and z must be multiples of 4: twice the volume is halved and brought back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([_block((1, 8, 16), first_norm=False), _block((16, 16, 32))])
        self.bottom = _block((32, 32, 64))
        self.up = nn.ModuleList([_block((32 + 64, 32, 32)), _block((16 + 32, 16, 16))])
        self.pool = nn.MaxPool3d(2)
        self.upsample = nn.Upsample(scale_factor=2, mode="trilinear", align_corners=False)
        self.classifier = nn.Conv3d(16, 2, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for block in self.down:
            x = block(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottom(x)
        for block in self.up:
            x = block(torch.cat([skips.pop(), self.upsample(x)], dim=1))
        return torch.softmax(self.classifier(x), dim=1)
