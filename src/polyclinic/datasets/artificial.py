"""Artificial centers: the samples of any federated dataset, dealt out anew, as stored in ``split.json``.

Data stay where they are; the file holds sample numbers: of each new center, for training and test apart, the numbers
of its samples in the parts of the dataset's own centers. ``FederatedDataset.load`` takes the file's (or its folder's)
path in place of a dataset's name, so nodes can be made of it as of any dataset.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.contents import quantile_groups, read_features, read_targets
from polyclinic.datasets.federated_dataset import FederatedDataset, center_index
from polyclinic.datasets.splitting import deal_out
from polyclinic.errors import ConfigError, DatasetChanged, DatasetError, nearest

if TYPE_CHECKING:
    from torch.utils.data import Dataset

SPLIT_FILE = "split.json"
PARTS = ("train", "test")
_FORMAT = 1
_NUM_BINS = 10  # groups of a number that is not a class


@dataclass(frozen=True)
class Split:
    """Which samples each artificial center has.

    ``centers[k]["train"]`` maps the number of a center of the dataset to the numbers of its samples, ascending.
    """

    dataset: str  # its name, or the dotted name of its module
    options: dict[str, Any]  # of its class
    data: str | None  # where its prepared data are
    method: str
    by: str
    alpha: float
    seed: int
    fingerprints: dict[str, dict[str, str]]  # of the source: part -> center -> digest
    centers: list[dict[str, dict[str, list[int]]]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.method} {number}" for number in range(len(self.centers)))

    def save(self, folder: str | Path) -> Path:
        """Writes ``split.json``; one that is there is not replaced, since nodes may use it."""
        path = Path(folder) / SPLIT_FILE
        if path.exists():
            raise ConfigError(f"there is a {path} already", to_do="choose another folder, nodes may use this one")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"format": _FORMAT} | vars(self)) + "\n", encoding="utf-8")
        return path


def split_file(name: str | Path) -> Path | None:
    """The file that a name means, if it means one: a path to it, or to its folder."""
    path = Path(name)
    if path.suffix == ".json" and path.is_file():
        return path.absolute()
    return (path / SPLIT_FILE).absolute() if (path / SPLIT_FILE).is_file() else None


def read_split(path: Path) -> Split:
    """Reads ``split.json``.

    Raises:
        DatasetError: it is no such file, or of another version.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
        if content.pop("format") != _FORMAT:
            raise ValueError("it is of another version")
        return Split(**content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as err:
        raise DatasetError(
            f"{path} is no file of artificial centers: {err}",
            to_do="make it anew with  polyclinic dataset split",
        ) from err


def make_split(
    dataset: FederatedDataset,
    num_centers: int,
    *,
    method: str = "dirichlet",
    alpha: float = 0.5,
    seed: int = 0,
    by: str | None = None,
    data_path: str | Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> Split:
    """Deals all samples of a dataset out to artificial centers; the same arguments and data give the same split.

    Args:
        num_centers: how many to make.
        method: "dirichlet", "linear", "quantity", "label" or "feature", see `polyclinic.datasets.splitting`.
        alpha: of dirichlet and quantity.
        by: what tells samples apart: "label" (default; whether there was an event, for survival data; the fraction of
            foreground, for masks), "center" (the dataset's own), "time" (survival), or the number or name of a
            feature of a table. What is no class is put in ten groups by quantiles.
        data_path: raw or prepared data of the dataset.
        options: of the dataset's class.

    Raises:
        ConfigError: a method, alpha or ``by`` that does not fit.
        DatasetError: the data cannot be read, or a part has fewer samples than there are centers.
    """
    options = dict(options or {})
    path = dataset.ensure_prepared(data_path, **options)
    numbers = range(len(dataset.centers_at(path)))
    parts = {part: [dataset.build(number, part == "train", path, **options) for number in numbers] for part in PARTS}
    if method == "feature" and by is None:
        known = ", ".join(getattr(dataset.module, "FEATURES", ())) or "of which there are no names"
        raise ConfigError(
            "method feature needs to know which feature",
            to_do=f"give --by with label, time, or the name or number of a feature: {known}",
        )
    by = by or "label"
    keys = _keys(dataset, parts, by, method) if method in ("dirichlet", "label", "feature") else _no_keys(parts)
    rng = np.random.default_rng(seed)
    dealt = deal_out(method, keys, num_centers, alpha=alpha, rng=rng)
    centers: list[dict[str, dict[str, list[int]]]] = [{part: {} for part in PARTS} for _ in range(num_centers)]
    for part, new in zip(PARTS, dealt, strict=True):
        ends = np.cumsum([_length(one) for one in parts[part]])[:-1]
        for old, of_old in enumerate(np.split(new, ends)):
            for number in np.unique(of_old):
                centers[number][part][str(old)] = np.flatnonzero(of_old == number).tolist()
    return Split(
        dataset=dataset.load_name,
        options=options,
        data=None if path is None else str(path.absolute()),
        method=method,
        by=by,
        alpha=alpha,
        seed=seed,
        fingerprints={part: {str(k): fingerprint_of(one) for k, one in enumerate(parts[part])} for part in PARTS},
        centers=centers,
    )


class ArtificialDataset(FederatedDataset):
    """A dataset with artificial centers in place of its own; model, loss, metric and constants are the dataset's.

    Args:
        path: of a ``split.json``.
    """

    def __init__(self, path: Path) -> None:
        self.split = read_split(path)
        self.source = FederatedDataset.load(self.split.dataset)
        super().__init__(self.source.module)
        self.load_name = str(path)
        self.centers = self.split.names
        self.num_clients = len(self.centers)
        self.name = f"{self.source.name}_{self.split.method}_{self.num_clients}"
        self.card = None

    def centers_at(self, data_path: str | Path | None) -> tuple[str, ...]:  # noqa: ARG002
        return self.centers

    def center_index(self, center: int | str, data_path: str | Path | None = None) -> int:  # noqa: ARG002
        return center_index(center, self.centers)

    def ensure_prepared(self, data_path: str | Path | None, **options: Any) -> Path | None:
        """The dataset's own, for the path that the split was made with unless another is given."""
        return self.source.ensure_prepared(data_path or self.split.data, **(self.split.options | options))

    def build(
        self,
        center: int | str = 0,
        train: bool = True,
        data_path: str | Path | None = None,
        pooled: bool = False,
        **options: Any,
    ) -> Dataset[Any]:
        """One artificial center, or all samples with ``pooled``, as the dataset's own classes give them.

        Raises:
            ConfigError: no such center.
            DatasetChanged: the data are not those that were split.
        """
        options = self.split.options | options
        path = data_path or self.split.data
        part = "train" if train else "test"
        chosen = self.split.centers if pooled else [self.split.centers[self.center_index(center)]]
        held: dict[str, list[int]] = {}
        for one in chosen:
            for old, rows in one[part].items():
                held.setdefault(old, []).extend(rows)
        parts = []
        for old in sorted(held, key=int):
            of_old = self.source.build(int(old), train, path, **options)
            if fingerprint_of(of_old) != self.split.fingerprints[part][old]:
                raise DatasetChanged(
                    f"the {part} part of {self.source.centers_at(path)[int(old)]} is not the one that was split",
                    to_do=f"split the data anew (polyclinic dataset split {self.split.dataset} …) into another folder",
                )
            parts.append((of_old, sorted(held[old])))
        return _joined(parts)


def fingerprint_of(dataset: Any) -> str:
    """Of one part of the source: how many samples, and in memory what it knows of them; nothing else is read."""
    digest = hashlib.blake2b(str(_length(dataset)).encode(), digest_size=8)
    if (tensors := getattr(dataset, "tensors", None)) is not None:
        digest.update(np.ascontiguousarray(np.asarray(tensors[-1], dtype=np.float64)).tobytes())
    # The names by which our image datasets list what they hold.
    for name in ("subjects", "images", "slides", "cases", "patients", "targets", "labels"):
        known = getattr(dataset, name, None)
        if known is not None and len(known) == _length(dataset):
            digest.update("\0".join(map(str, known)).encode())
    return digest.hexdigest()


def _keys(
    dataset: FederatedDataset, parts: Mapping[str, Sequence[Any]], by: str, method: str
) -> list[NDArray[np.int64] | NDArray[np.float64]]:
    """What tells samples apart, of the training and of the test part: group numbers, or values for "feature"."""
    joined = [one for part in PARTS for one in parts[part]]
    num_train = sum(map(_length, parts["train"]))
    if by == "center":
        numbers = [np.full(_length(one), k, dtype=np.float64) for part in PARTS for k, one in enumerate(parts[part])]
        values, is_group = np.concatenate(numbers), True
    elif by in ("label", "time"):
        targets = read_targets(joined)
        is_survival = targets[0].kind == "survival"
        if by == "time" and not is_survival:
            raise ConfigError("these data have no times", to_do="choose --by label, center or a feature")
        found = np.concatenate([target.values for target in targets])
        values = found[:, int(by == "time")] if is_survival else found
        is_group = targets[0].kind == "class" or (is_survival and by == "label")
    else:
        values, is_group = _column(dataset, joined, by), False
    if method == "feature":
        return [values[:num_train], values[num_train:]]
    codes = np.unique(values, return_inverse=True)[1] if is_group else quantile_groups(values, _NUM_BINS, by)[0]
    return [codes[:num_train], codes[num_train:]]


def _column(dataset: FederatedDataset, parts: Sequence[Any], by: str) -> NDArray[np.float64]:
    names = [str(name) for name in getattr(dataset.module, "FEATURES", ())]
    columns = [read_features(part) for part in parts]
    if any(column is None for column in columns):
        raise ConfigError(
            f"{dataset.name} has no features to split by: its samples are no rows of a table",
            to_do="choose --by label or --by center",
        )
    table = np.concatenate([column for column in columns if column is not None])
    if by in names:
        number = names.index(by)
    elif by.isdecimal() and int(by) < table.shape[1]:
        number = int(by)
    else:
        raise ConfigError(
            f"{dataset.name} has no feature {by!r}",
            to_do=f"{nearest(by, names)}; or give a number from 0 to {table.shape[1] - 1}, or label or center",
        )
    found: NDArray[np.float64] = table[:, number]
    return found


def _no_keys(parts: Mapping[str, Sequence[Any]]) -> list[NDArray[np.int64] | NDArray[np.float64]]:
    return [np.zeros(sum(map(_length, parts[part])), dtype=np.int64) for part in PARTS]


def _joined(parts: Sequence[tuple[Any, list[int]]]) -> Dataset[Any]:
    """The chosen rows of several datasets as one; as tensors where all have them, which training reads at once."""
    import torch
    from torch.utils.data import ConcatDataset, Subset, TensorDataset

    tensors = [getattr(dataset, "tensors", None) for dataset, _ in parts]
    if all(known is not None for known in tensors):
        chosen = [[t[rows] for t in known] for known, (_, rows) in zip(tensors, parts, strict=True) if known]
        return TensorDataset(*(torch.cat(column) for column in zip(*chosen, strict=True)))
    return ConcatDataset([Subset(dataset, rows) for dataset, rows in parts])


def _length(dataset: Any) -> int:
    return len(dataset)
