"""From tiles to features: networks that were trained elsewhere and are not trained here.

=========  =========  ==========================================================================================
name       features   weights
=========  =========  ==========================================================================================
resnet50   2048       ImageNet, torchvision's IMAGENET1K_V1; from a file, or from PyTorch's server
phikon     768        self-supervised on 40 million tiles of TCGA, Owkin, non-commercial licence; from a file only
=========  =========  ==========================================================================================

A network that is not among them is one more line in `ENCODERS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from polyclinic.datasets.fed_camelyon16.resnet import ResNet50
from polyclinic.datasets.fed_camelyon16.vit import VisionTransformer
from polyclinic.datasets.weights import PublishedWeights, find_weights, load_weights
from polyclinic.errors import ConfigError, nearest

RANDOM = "random"
_SEED = 0
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which both networks want


@dataclass(frozen=True)
class Encoder:
    """A kind of network.

    Args:
        make: builds it.
        resize: tiles are brought to this size, and 224 pixels in the middle are kept; None leaves them as they are.
        published: its weights.
    """

    make: Callable[[], nn.Module]
    resize: int | None
    published: PublishedWeights


_WITHOUT = "features come from random weights and are of little use"
ENCODERS: dict[str, Encoder] = {
    "resnet50": Encoder(
        ResNet50,
        256,
        PublishedWeights(
            file_name="resnet50-0676ba61.pth",
            url="https://download.pytorch.org/models/resnet50-0676ba61.pth",
            without=_WITHOUT,
            get_weights=(
                "download https://download.pytorch.org/models/resnet50-0676ba61.pth and give it as --weights FILE"
            ),
            not_needed=("fc.",),
        ),
    ),
    "phikon": Encoder(
        VisionTransformer,
        None,
        PublishedWeights(
            file_name="phikon.safetensors",
            url="",
            without=_WITHOUT,
            get_weights=(
                "read the licence at https://huggingface.co/owkin/phikon and give its model.safetensors as "
                "--weights FILE"
            ),
            prefix="vit.",
            not_needed=("pooler.",),
        ),
    ),
}


class LoadedEncoder:
    """A network with its weights, on the GPU if there is one.

    ``weights`` tells which: the SHA-256 of their file, or "random, seed 0".
    """

    def __init__(self, network: nn.Module, resize: int | None, weights: str) -> None:
        self.weights = weights
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._network = network.eval().to(self._device)
        self._resize = resize

    def __call__(self, tiles: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(n, 224, 224, 3) RGB -> (n, d)."""
        with torch.inference_mode():
            x = to_input(torch.from_numpy(tiles).to(self._device), self._resize)
            features: NDArray[np.float32] = self._network(x).float().cpu().numpy()
        return features


def to_input(tiles: Tensor, resize: int | None) -> Tensor:
    """(n, 224, 224, 3) uint8 -> (n, 3, 224, 224): in [0, 1], resized, middle cut out, ImageNet's mean and deviation.

    With 256 it is what torchvision's weights ask for: a tile is magnified and loses its rim.
    """
    x = tiles.permute(0, 3, 1, 2).float() / 255
    if resize is not None:
        size = x.shape[-1]
        x = F.interpolate(x, size=(resize, resize), mode="bilinear", align_corners=False, antialias=True)
        rim = (resize - size) // 2
        x = x[..., rim : rim + size, rim : rim + size]
    mean, std = (x.new_tensor(value).view(3, 1, 1) for value in (_MEAN, _STD))
    return (x - mean) / std


def load_encoder(name: str = "resnet50", weights: str | Path | None = None) -> LoadedEncoder:
    """The encoder of this name.

    Args:
        weights: a file (.pth, .bin or .safetensors); "random"; or None for the usual ones, see `find_weights`, and
            random ones with a warning when they cannot be had.

    Raises:
        ConfigError: no such encoder, or one whose weights have to be given; the file cannot be read, or holds weights
            of another network.
    """
    if name not in ENCODERS:
        raise ConfigError(f"there is no encoder {name!r}", to_do=nearest(name, ENCODERS))
    encoder = ENCODERS[name]
    if weights is None:
        path = find_weights(encoder.published)
    else:
        path = None if str(weights) == RANDOM else Path(weights)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = encoder.make()
    if path is None:
        return LoadedEncoder(network, encoder.resize, f"random, seed {_SEED}")
    load_weights(network, path, encoder.published)
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    return LoadedEncoder(network, encoder.resize, digest)
