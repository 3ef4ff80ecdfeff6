"""Where EfficientNet's weights of ImageNet come from: a folder, torch's cache, or the hub; else there are none."""

from __future__ import annotations

import hashlib
import os
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from polyclinic.datasets.download import RemoteFile, fetch
from polyclinic.errors import ConfigError, DownloadError

FILE_NAME = "efficientnet-b0-355c32eb.pth"
FOLDER_VARIABLE = "POLYCLINIC_WEIGHTS"
_URL = f"https://github.com/lukemelas/EfficientNet-PyTorch/releases/download/1.0/{FILE_NAME}"
_SHA256_BEGINS = "355c32eb"
# A node builds a plan in each round, mostly without a network: it waits once for this long, and never again.
_TIMEOUT_S = 5.0
_given_up: dict[Path, str] = {}  # folder -> why, in this process


def find_weights() -> Path | None:
    """The file of ImageNet weights, or None with a warning.

    Looked for in the folder that the environment variable POLYCLINIC_WEIGHTS names, and if it names one, nowhere
    else; then in torch's cache of checkpoints; then it is downloaded into that cache, 21 MB, once. The variable may
    also be "none": random weights, on purpose, without a warning.
    """
    if os.environ.get(FOLDER_VARIABLE) == "none":
        return None
    if folder := os.environ.get(FOLDER_VARIABLE):
        if (path := Path(folder) / FILE_NAME).is_file():
            return path
        _warn(f"{FOLDER_VARIABLE} is {folder}, where there is no {FILE_NAME}")
        return None
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    if (path := cache / FILE_NAME).is_file():
        return path
    if cache not in _given_up:
        try:
            return _download(cache)
        except DownloadError as err:
            _given_up[cache] = err.what
    _warn(_given_up[cache])
    return None


def load_weights(network: nn.Module, path: Path) -> None:
    """Loads a checkpoint into MONAI's EfficientNet-B0.

    A last layer for other classes, as ImageNet's 1,000, is left out: that layer keeps its random weights.

    Raises:
        ConfigError: the file cannot be read, or is of another model.
    """
    try:
        given = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as err:
        raise ConfigError(
            f"the weights in {path} cannot be read: {err}", to_do=f"give a checkpoint like {FILE_NAME}"
        ) from err
    wanted = network.state_dict()
    fitting = _renamed(given if isinstance(given, Mapping) else {}, wanted)
    # Older checkpoints do not count batches; with a fixed momentum the count has no use.
    missing = [key for key in wanted if key not in fitting and not key.endswith("num_batches_tracked")]
    if wrong := [key for key in missing if not key.startswith("_fc.")]:
        raise ConfigError(
            f"the weights in {path} are not of EfficientNet-B0: {len(wrong)} of {len(wanted)} tensors are absent or "
            f"have another shape, the first is {wrong[0]}",
            to_do=f"give a checkpoint like {FILE_NAME}, or a state_dict of this Baseline",
        )
    network.load_state_dict(fitting, strict=False)


def _renamed(given: Mapping[str, Any], wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The given tensors under the network's names, those that fit in shape."""
    plain = {str(key).removeprefix("base_model."): value for key, value in given.items()}
    fitting = {}
    for key, tensor in wanted.items():
        # Blocks are numbered through in the usual checkpoint, and grouped by stage in MONAI's network.
        usual = re.sub(r"^_blocks\.\d+\.", "_blocks.", key)
        for name in (key, usual):
            if isinstance(value := plain.get(name), torch.Tensor) and value.shape == tensor.shape:
                fitting[key] = value
                break
    return fitting


def _download(folder: Path) -> Path:
    path = fetch(RemoteFile(url=_URL, name=FILE_NAME), folder, attempts=1, timeout_s=_TIMEOUT_S, show_progress=False)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(_SHA256_BEGINS):
        path.unlink()
        raise DownloadError(f"{_URL} gave other bytes: their SHA-256 begins with {digest[:8]}")
    return path


def _warn(why: str) -> None:
    warnings.warn(
        f"EfficientNet-B0 starts from random weights, not from those of ImageNet ({why}). At a node this does not "
        f"matter: the experiment's weights replace them. Elsewhere: put {FILE_NAME} into a folder and set "
        f"{FOLDER_VARIABLE} to it, or to none for random weights on purpose.",
        stacklevel=4,
    )
