"""EfficientNet-B0 with eight outputs, 4,017,796 parameters, by MONAI; weights of ImageNet where they can be had.

Tan and Le, EfficientNet, ICML 2019, arXiv:1905.11946. Batch norm with momentum 0.01 and eps 0.001, dropout 0.2,
stochastic depth up to 0.2. Its "same" padding is that of 224 x 224 pixels, whatever the input's size, as in FLamby.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor, nn

from polyclinic.datasets.fed_isic2019.published import CLASSES
from polyclinic.datasets.weights import FOLDER_VARIABLE, PublishedWeights, find_weights, load_weights
from polyclinic.errors import ConfigError

_FEATURES = 1280
_FILE_NAME = "efficientnet-b0-355c32eb.pth"


def _published_name(name: str) -> str:
    # Blocks are numbered through in the usual checkpoint, and grouped by stage in MONAI's network: as MONAI's
    # own loader does, the group is left out.
    return re.sub(r"^_blocks\.\d+\.", "_blocks.", name)


WEIGHTS = PublishedWeights(
    file_name=_FILE_NAME,
    url=f"https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/{_FILE_NAME}",
    without="EfficientNet-B0 starts from random weights, not from those of ImageNet",
    get_weights=(
        f"put {_FILE_NAME} into a folder and set {FOLDER_VARIABLE} to it; or to none for random weights on purpose, as "
        "at a node, where the experiment's weights replace them"
    ),
    prefix="base_model.",
    own_head=("_fc.",),
    published_name=_published_name,
)


class Baseline(nn.Module):
    """(batch, 3, height, width) normalised images of at least 32 x 32 pixels -> (batch, 8) scores, before softmax.

    Args:
        pretrained: start from weights of ImageNet, see `find_weights`. If they are nowhere to be had, the model
            starts at random, with a warning.
        weights: a file of weights, which is then used whatever ``pretrained`` says: the usual checkpoint
            ``efficientnet-b0-355c32eb.pth``, or one saved from this class.

    Raises:
        ConfigError: MONAI is not installed, or ``weights`` cannot be read or does not fit.
    """

    def __init__(self, pretrained: bool = True, weights: str | Path | None = None) -> None:
        super().__init__()
        try:
            # Here and not above: it takes seconds, and is in an extra.
            from monai.networks.nets.efficientnet import EfficientNetBN
        except ModuleNotFoundError as err:
            raise ConfigError(
                "EfficientNet needs MONAI, which is not installed", to_do="pip install 'polyclinic[imaging]'"
            ) from err
        self.base_model = EfficientNetBN("efficientnet-b0", pretrained=False, num_classes=len(CLASSES))
        # MONAI starts its last layer with weights about ten times as large as torch's, which is what FLamby has.
        self.base_model._fc = nn.Linear(_FEATURES, len(CLASSES))
        # After all draws, so that the random stream does not depend on whether there are weights. A model that is
        # built without memory, to count its parameters, has no place for them.
        if torch.get_default_device().type == "meta":
            return
        found = Path(weights) if weights is not None else (find_weights(WEIGHTS) if pretrained else None)
        if found is not None:
            load_weights(self.base_model, found, WEIGHTS)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.base_model(x)
        return scores
