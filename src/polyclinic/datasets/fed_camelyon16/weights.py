"""Where pretrained weights come from, and how they get into a network."""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from polyclinic.datasets.download import RemoteFile, fetch
from polyclinic.errors import ConfigError, DatasetError, DownloadError, PolyclinicError
from polyclinic.tensors import load_file

FOLDER_VARIABLE = "POLYCLINIC_WEIGHTS"
_ON_PURPOSE = "none"
_TIMEOUT_S = 10.0
_WHAT_FOR = "give the file of the weights as it was published, .pth, .bin or .safetensors"


def find_weights(file_name: str, url: str, get_weights: str) -> Path | None:
    """The file of the usual weights; None with a warning when they cannot be had.

    Looked for in the folder that the environment variable POLYCLINIC_WEIGHTS names, and if it names one, nowhere else;
    then in torch's cache of checkpoints; then it is downloaded into that cache, once. The variable may also be "none":
    random weights, on purpose, without a warning.

    Args:
        file_name: what it is called; eight characters before its ending are the beginning of its SHA-256.
        url: where it is; "" when a person has to fetch it.
        get_weights: what that person does.

    Raises:
        ConfigError: a person has to fetch it, and has not.
    """
    place = os.environ.get(FOLDER_VARIABLE, "")
    if place == _ON_PURPOSE:
        return None
    if place and (path := Path(place) / file_name).is_file():
        return path
    if not url:
        raise ConfigError(f"the weights {file_name} have to be given", to_do=get_weights)
    if place:
        _warn(f"there is no {file_name} in {place}, which {FOLDER_VARIABLE} names", get_weights)
        return None
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    remote = RemoteFile(url=url, name=file_name)
    try:
        path = fetch(remote, cache, attempts=2, timeout_s=_TIMEOUT_S, show_progress=False)
    except DownloadError as err:
        _warn(err.what, get_weights)
        return None
    begin = path.stem.rpartition("-")[2]
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if not digest.startswith(begin):
        path.unlink()
        _warn(f"{url} gave other bytes, their SHA-256 begins with {digest[:8]}", get_weights)
        return None
    return path


def _warn(why: str, get_weights: str) -> None:
    warnings.warn(
        f"features come from random weights and are of little use ({why}); to have good ones, {get_weights}",
        stacklevel=5,
    )


def load_weights(network: nn.Module, path: Path, not_needed: tuple[str, ...], get_weights: str) -> None:
    """Puts the weights of a file into a network; each of its own must be there in its shape, and nothing unknown.

    Args:
        not_needed: beginnings of names in the file that the network does not have.

    Raises:
        OSError: the file cannot be read.
        DatasetError: it holds something else.
    """
    wanted = network.state_dict()
    # Published with or without the name of a part in front.
    given = {name.removeprefix("vit."): value for name, value in _read(path).items()}
    given = {name: value for name, value in given.items() if not name.startswith(not_needed)}
    # Counts of batches, which older files lack and which nothing here reads.
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unknown = [name for name in given if name not in wanted]
    odd = [name for name in given if name in wanted and given[name].shape != wanted[name].shape]
    for names, what in ((missing, "lacks"), (unknown, "has an unknown"), (odd, "has another shape of")):
        if names:
            raise DatasetError(
                f"{path} holds weights of another network: it {what} {names[0]!r}"
                + (f" and {len(names) - 1} more" if len(names) > 1 else ""),
                to_do=get_weights,
            )
    network.load_state_dict(given, strict=False)


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        content = (
            load_file(path)
            if path.suffix == ".safetensors"
            # Never anything but tensors: a pickle can run code.
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except OSError:
        raise
    except (PolyclinicError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as err:
        reason = getattr(err, "what", None) or str(err).partition("\n")[0]
        raise DatasetError(f"{path} is no file of weights: {reason}", to_do=_WHAT_FOR) from err
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DatasetError(f"{path} is no file of weights: it holds something else than named tensors", to_do=_WHAT_FOR)
    return content
