"""nnU-Net's "Generic U-Net" as planned for the low resolution of Fed-KiTS19: 30,785,984 parameters.

Isensee et al., nnU-Net, Nature Methods 2021, 18:203-211. Two 3x3x3 convolutions a level, each with instance norm and
leaky ReLU; 32 features that double from level to level up to 320; strided convolutions on the way down, transposed
ones on the way up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from polyclinic.datasets.fed_kits19.inference import sliding_window_predict
from polyclinic.datasets.fed_kits19.plan import PLAN

NUM_CLASSES = 3  # background, kidney, tumour
_FEATURES = (32, 64, 128, 256, 320, 320)
_SLOPE = 0.01


class _Convolution(nn.Sequential):
    def __init__(self, n_in: int, n_out: int, stride: tuple[int, int, int] = (1, 1, 1)) -> None:
        super().__init__(
            nn.Conv3d(n_in, n_out, kernel_size=3, stride=stride, padding=1),
            nn.InstanceNorm3d(n_out, affine=True),
            nn.LeakyReLU(_SLOPE, inplace=True),
        )


class GenericUNet(nn.Module):
    """(batch, 1, z, y, x) patch -> (batch, 3, z, y, x) logits.

    z must be a multiple of 16, y and x of 32, and the patch larger than 16 x 32 x 32, of which one voxel
    would be left at the bottom, too few for instance norm.
    """

    def __init__(self) -> None:
        super().__init__()
        strides = ((1, 1, 1), *PLAN.pool_strides)
        n_ins = (1, *_FEATURES)
        self.down = nn.ModuleList(
            nn.Sequential(_Convolution(n_in, n_out, stride), _Convolution(n_out, n_out))
            for n_in, n_out, stride in zip(n_ins, _FEATURES, strides, strict=False)
        )
        below, beside = _FEATURES[:0:-1], _FEATURES[-2::-1]
        self.upsample = nn.ModuleList(
            nn.ConvTranspose3d(n_in, n_out, kernel_size=stride, stride=stride, bias=False)
            for n_in, n_out, stride in zip(below, beside, PLAN.pool_strides[::-1], strict=True)
        )
        self.up = nn.ModuleList(
            nn.Sequential(_Convolution(2 * width, width), _Convolution(width, width)) for width in beside
        )
        # One head a level, as nnU-Net has for deep supervision; with it off, only the last is used, and the others stay
        # as they are. They are kept, so that parameters and their number are nnU-Net's.
        self.heads = nn.ModuleList(nn.Conv3d(width, NUM_CLASSES, kernel_size=1, bias=False) for width in beside)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for block in self.down:
            x = block(x)
            skips.append(x)
        skips.pop()
        for upsample, block in zip(self.upsample, self.up, strict=True):
            x = block(torch.cat([upsample(x), skips.pop()], dim=1))
        logits: Tensor = self.heads[-1](x)
        return logits


class Baseline(GenericUNet):
    """`GenericUNet`; in evaluation mode it takes whole volumes too, which it judges window by window.

    (batch, 1, z, y, x) image -> (batch, 3, z, y, x) logits of background, kidney and tumour.

    Args:
        patch_size: (z, y, x) of the patches it is trained on, and of the windows.
    """

    def __init__(self, patch_size: Sequence[int] = PLAN.patch_size) -> None:
        super().__init__()
        self.patch_size = tuple(patch_size)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or tuple(x.shape[2:]) == self.patch_size:
            return super().forward(x)
        return sliding_window_predict(super().forward, x, self.patch_size)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, a=_SLOPE)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
