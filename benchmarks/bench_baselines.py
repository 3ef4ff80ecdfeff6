"""A training step of each large baseline model over MONAI's implementation of the same or nearest architecture.

    python benchmarks/bench_baselines.py

Both take the same batch, forward and backward, in turn. Goal: at most 1.05. The inputs are smaller than the datasets'
own, so that it fits a small machine; both models get the same. The numbers of parameters tell how near the two
architectures are.
"""

from __future__ import annotations

import torch
from monai.networks.nets import DynUNet, EfficientNetBN, VNet
from torch import nn

from pairs import compare
from polyclinic.datasets import fed_isic2019, fed_kits19, fed_lidc_idri

KITS_STRIDES = [1, 2, 2, 2, 2, [1, 2, 2]]


def step(model: nn.Module, batch: torch.Tensor) -> None:
    model.zero_grad()
    output = model(batch)
    output.float().square().mean().backward()


def against(title: str, ours: nn.Module, reference: nn.Module, shape: tuple[int, ...], pairs: int = 5) -> None:
    batch = torch.randn(shape)
    count = [sum(p.numel() for p in model.parameters()) for model in (ours, reference)]
    ours.train()
    reference.train()
    title = f"{title}, {count[0]:,} parameters (MONAI's: {count[1]:,}), batch {tuple(shape)}"
    compare(title, lambda: step(ours, batch), lambda: step(reference, batch), pairs=pairs)


def main() -> None:
    torch.manual_seed(0)
    against(
        "ISIC, EfficientNet-B0",
        fed_isic2019.Baseline(pretrained=False),
        EfficientNetBN("efficientnet-b0", pretrained=False, num_classes=8),
        (4, 3, 200, 200),
    )
    against(
        "KiTS, U-Net of nnU-Net",
        fed_kits19.Baseline(),
        DynUNet(
            3,
            1,
            3,
            kernel_size=[3] * 6,
            strides=KITS_STRIDES,
            upsample_kernel_size=KITS_STRIDES[1:],
            filters=[32, 64, 128, 256, 320, 320],
            trans_bias=False,
        ),
        (1, 1, 32, 96, 96),
    )
    against("LIDC, V-Net", fed_lidc_idri.Baseline(), VNet(out_channels=1), (1, 1, 32, 32, 32))


if __name__ == "__main__":
    main()
