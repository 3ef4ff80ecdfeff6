"""V-Net: an encoder and a decoder in 3-D with residual steps, 45,596,309 parameters.

Milletari et al., V-Net, 3DV 2016, arXiv:1606.04797, in the form that FLamby uses: kernels of 5, batch normalisation,
ELU, dropout of whole channels, and one output with a sigmoid.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Patches at a time without gradients: a quarter of a scan's 27, so that its activations take a quarter of the memory.
_CHUNK = 7


def _normalised(convolution: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm3d(channels), nn.ELU())


def _levels(channels: int, count: int) -> nn.Sequential:
    """``count`` convolutions of kernel 5 that keep size and channels, each with normalisation and ELU."""
    return nn.Sequential(*(_normalised(nn.Conv3d(channels, channels, 5, padding=2), channels) for _ in range(count)))


class _Input(nn.Module):
    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(in_channels, channels, 5, padding=2)
        self.norm = nn.BatchNorm3d(channels)
        self.repeats = channels // in_channels

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.elu(self.norm(self.convolution(x)) + x.repeat(1, self.repeats, 1, 1, 1))


class _Down(nn.Module):
    """Half the size, twice the channels."""

    def __init__(self, channels: int, count: int, dropout: bool) -> None:
        super().__init__()
        self.down = _normalised(nn.Conv3d(channels, 2 * channels, 2, stride=2), 2 * channels)
        self.dropout = nn.Dropout3d(0.25) if dropout else nn.Identity()
        self.levels = _levels(2 * channels, count)

    def forward(self, x: Tensor) -> Tensor:
        down = self.down(x)
        return nn.functional.elu(self.levels(self.dropout(down)) + down)


class _Up(nn.Module):
    """Twice the size; joined with what the encoder had at this size."""

    def __init__(self, in_channels: int, out_channels: int, count: int, dropout: bool) -> None:
        super().__init__()
        self.dropout = nn.Dropout3d(0.25) if dropout else nn.Identity()
        self.skip_dropout = nn.Dropout3d(0.25)
        half = out_channels // 2
        self.up = _normalised(nn.ConvTranspose3d(in_channels, half, 2, stride=2), half)
        self.levels = _levels(out_channels, count)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        joined = torch.cat([self.up(self.dropout(x)), self.skip_dropout(skip)], dim=1)
        return nn.functional.elu(self.levels(joined) + joined)


class Baseline(nn.Module):
    """(batch, 1, x, y, z) in [0, 1] -> (batch, 1, x, y, z) probabilities; x, y and z divisible by 16.

    Args:
        in_channels: a divisor of ``width``.
        dropout: dropout at the two lowest levels of either side; on the connections between the sides it always is.
        width: channels at full size, even; 16 is the baseline, less makes a smaller model for trials.
    """

    def __init__(self, in_channels: int = 1, dropout: bool = True, width: int = 16) -> None:
        super().__init__()
        w = width
        self.input = _Input(in_channels, w)
        self.down = nn.ModuleList(
            [_Down(w, 1, False), _Down(2 * w, 2, False), _Down(4 * w, 3, dropout), _Down(8 * w, 2, dropout)]
        )
        self.up = nn.ModuleList(
            [
                _Up(16 * w, 16 * w, 2, dropout),
                _Up(16 * w, 8 * w, 2, dropout),
                _Up(8 * w, 4 * w, 1, False),
                _Up(4 * w, 2 * w, 1, False),
            ]
        )
        self.output = nn.Sequential(_normalised(nn.Conv3d(2 * w, 1, 5, padding=2), 1), nn.Conv3d(1, 1, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        # In evaluation a patch's output does not depend on the others, so a scan's 27 need not be in memory at once.
        if len(x) > _CHUNK and not self.training and not torch.is_grad_enabled():
            return torch.cat([self._whole(chunk) for chunk in torch.split(x, _CHUNK)])
        return self._whole(x)

    def _whole(self, x: Tensor) -> Tensor:
        sides = [self.input(x)]
        for down in self.down:
            sides.append(down(sides[-1]))
        x = sides.pop()
        for up in self.up:
            x = up(x, sides.pop())
        out: Tensor = self.output(x)
        return out
