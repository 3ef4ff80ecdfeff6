"""Pretrained weights: where they come from, and how they get into a network."""

from __future__ import annotations

import hashlib
import os
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from polyclinic.datasets.download import RemoteFile, fetch
from polyclinic.errors import ConfigError, DownloadError, PolyclinicError
from polyclinic.tensors import load_file

FOLDER_VARIABLE = "POLYCLINIC_WEIGHTS"
_ON_PURPOSE = "none"
# A node builds a plan in each round, mostly without a network: it waits once for this long, and never again.
_TIMEOUT_S = 5.0
_given_up: dict[Path, str] = {}  # file in the cache -> why, in this process


def _same(name: str) -> str:
    return name


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that someone published.

    Args:
        file_name: what their file is called; eight characters before its ending are the beginning of its SHA-256.
        url: where it is to be had without asking anybody; "" when a person has to fetch it.
        without: what a warning says where they cannot be had.
        get_weights: what a person does to have them.
        prefix: of the names in the file, which may be there or not.
        not_needed: beginnings of names in the file that the network does not have.
        own_head: beginnings of names that stay as they are in the network where the file lacks them, or has them in
            another shape: a last layer for other classes.
        published_name: the name in the file of a tensor of the network, which the file may use as well.
    """

    file_name: str
    url: str
    without: str
    get_weights: str
    prefix: str = ""
    not_needed: tuple[str, ...] = ()
    own_head: tuple[str, ...] = ()
    published_name: Callable[[str], str] = _same


def find_weights(published: PublishedWeights) -> Path | None:
    """The file of the weights, or None with a warning when they cannot be had.

    Looked for in the folder that the environment variable POLYCLINIC_WEIGHTS names, and if it names one, nowhere
    else; then in torch's cache of checkpoints; then it is downloaded into that cache, once. The variable may also be
    "none": random weights, on purpose, without a warning.

    Raises:
        ConfigError: a person has to fetch it, and has not.
    """
    place = os.environ.get(FOLDER_VARIABLE, "")
    if place == _ON_PURPOSE:
        return None
    folder = Path(place) if place else Path(torch.hub.get_dir()) / "checkpoints"
    if (path := folder / published.file_name).is_file():
        return path
    if not published.url:
        raise ConfigError(f"the weights {published.file_name} have to be given", to_do=published.get_weights)
    if place:
        _warn(published, f"there is no {published.file_name} in {place}, which {FOLDER_VARIABLE} names")
        return None
    if path not in _given_up:
        try:
            return _download(published, folder)
        except DownloadError as err:
            _given_up[path] = err.what
    _warn(published, _given_up[path])
    return None


def load_weights(network: nn.Module, path: Path, published: PublishedWeights) -> None:
    """Puts the weights of a file into a network; each of its own must be there in its shape, and nothing unknown.

    Args:
        path: .pth, .bin or .safetensors.

    Raises:
        ConfigError: the file cannot be read, or holds something else.
    """
    wanted = network.state_dict()
    given = {name.removeprefix(published.prefix): value for name, value in _read(path, published).items()}
    given = {name: value for name, value in given.items() if not name.startswith(published.not_needed)}
    own_name = {published.published_name(name): name for name in wanted}
    given = {own_name.get(name, name): value for name, value in given.items()}
    odd = [name for name in given if name in wanted and given[name].shape != wanted[name].shape]
    for name in [name for name in odd if name.startswith(published.own_head)]:
        odd.remove(name)
        del given[name]
    # Counts of batches, which older files lack and which nothing here reads.
    may_lack = [name for name in wanted if name.endswith("num_batches_tracked") or name.startswith(published.own_head)]
    missing = [name for name in wanted if name not in given and name not in may_lack]
    unknown = [name for name in given if name not in wanted]
    for names, what in ((missing, "lacks"), (unknown, "has an unknown"), (odd, "has another shape of")):
        if names:
            raise ConfigError(
                f"{path} holds weights of another network: it {what} {names[0]!r}"
                + (f" and {len(names) - 1} more" if len(names) > 1 else ""),
                to_do=published.get_weights,
            )
    network.load_state_dict(given, strict=False)


def _download(published: PublishedWeights, folder: Path) -> Path:
    remote = RemoteFile(url=published.url, name=published.file_name)
    path = fetch(remote, folder, attempts=1, timeout_s=_TIMEOUT_S, show_progress=False)
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if not digest.startswith(Path(published.file_name).stem.rpartition("-")[2]):
        path.unlink()
        raise DownloadError(f"{published.url} gave other bytes: their SHA-256 begins with {digest[:8]}")
    return path


def _warn(published: PublishedWeights, why: str) -> None:
    warnings.warn(f"{published.without} ({why}). To have good ones: {published.get_weights}", stacklevel=4)


def _read(path: Path, published: PublishedWeights) -> Mapping[str, Tensor]:
    try:
        content = (
            load_file(path)
            if path.suffix == ".safetensors"
            # Never anything but tensors: a pickle can run code.
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except OSError as err:
        raise ConfigError(
            f"the weights {path} cannot be read: {err.strerror or err}", to_do=published.get_weights
        ) from err
    except (PolyclinicError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, KeyError) as err:
        reason = getattr(err, "what", None) or str(err).partition("\n")[0]
        raise ConfigError(f"{path} is no file of weights: {reason}", to_do=published.get_weights) from err
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ConfigError(
            f"{path} is no file of weights: it holds something else than named tensors", to_do=published.get_weights
        )
    return content
