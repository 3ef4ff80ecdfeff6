"""What the samples of a dataset hold: their targets, in one of four kinds, and the features of a table.

Works for every dataset whose samples are tuples with the target last. Where a dataset keeps its targets in memory
(``tensors``, ``targets`` or ``labels``), no sample is read for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import DatasetError

Array = NDArray[np.float64]
Kind = Literal["class", "number", "survival", "mask"]

_LARGEST_TARGET = 64  # numbers; what has more is a mask
_MOST_CLASSES = 50
_MOST_FEATURES = 10_000


@dataclass(frozen=True)
class Targets:
    """Targets of samples: "class" (n,) codes, "number" (n,), "survival" (n, 2) event and time, "mask" (n,) foreground.

    A mask's foreground is the fraction of its voxels that are not background (class 0).
    """

    kind: Kind
    values: Array

    def groups(self, num_bins: int = 5) -> tuple[NDArray[np.int64], list[str]]:
        """(n,) group of each sample and the groups' names: classes, event or none, or as many quantiles."""
        if self.kind == "survival":
            return self.values[:, 0].astype(np.int64), ["censored", "event"]
        if self.kind == "class":
            names, codes = np.unique(self.values, return_inverse=True)
            return codes, [f"class {name:g}" for name in names]
        return quantile_groups(self.values, num_bins, {"mask": "foreground", "number": "target"}[self.kind])


def quantile_groups(values: Array, num_bins: int, name: str) -> tuple[NDArray[np.int64], list[str]]:
    """(n,) quantile group of each value, at most ``num_bins``, and the groups' names."""
    edges = np.unique(np.quantile(values, np.linspace(0, 1, num_bins + 1)[1:-1]))
    codes = np.searchsorted(edges, values, side="left")
    present, codes = np.unique(codes, return_inverse=True)
    limits = [values.min(), *edges, values.max()]
    return codes, [f"{name} {limits[k]:.3g}–{limits[k + 1]:.3g}" for k in present]


def read_targets(parts: Sequence[Any], most: int | None = None) -> list[Targets]:
    """The targets of several parts of one dataset, of one kind for all.

    Args:
        parts: torch datasets.
        most: samples to read of a part whose targets are not in memory, at even distances; None: all.

    Raises:
        DatasetError: the samples are no tuples of numbers.
    """
    raw = [_raw_targets(part, most) for part in parts]
    widths = {values.shape[1] for values, _ in raw}
    if len(widths) > 1:
        raise DatasetError(
            f"targets differ in size between the centers: {', '.join(map(str, sorted(widths)))} numbers",
            to_do="report this to the makers of the dataset",
        )
    everything = np.concatenate([values for values, _ in raw])
    if any(is_mask for _, is_mask in raw):
        return [Targets("mask", values[:, 0]) for values, _ in raw]
    if everything.shape[1] > 1 and not _is_survival(everything):
        # One-hot or several labels at once: each combination is a class.
        rows, codes = np.unique(everything, axis=0, return_inverse=True)
        if len(rows) <= _MOST_CLASSES:
            ends = np.cumsum([len(values) for values, _ in raw])[:-1]
            return [Targets("class", part.astype(np.float64)) for part in np.split(codes.reshape(-1), ends)]
    if _is_survival(everything):
        return [Targets("survival", values) for values, _ in raw]
    first = everything[:, 0]
    is_class = len(np.unique(first)) <= _MOST_CLASSES and bool((first == np.round(first)).all())
    return [Targets("class" if is_class else "number", values[:, 0]) for values, _ in raw]


def read_features(dataset: Any) -> Array | None:
    """(n, d) features of a table; None if the samples are no rows of a table."""
    if (tensors := getattr(dataset, "tensors", None)) is not None:
        x = tensors[0]
        return np.asarray(x, dtype=np.float64).reshape(len(x), -1) if x.ndim <= 2 else None
    if not len(dataset) or np.ndim(first := _entry(dataset[0], 0)) != 1 or len(first) > _MOST_FEATURES:
        return None
    return np.stack([_entry(dataset[row], 0).astype(np.float64) for row in range(len(dataset))])


def some_rows(num_rows: int, most: int | None) -> list[int]:
    """At most ``most`` numbers of rows, at even distances."""
    num = num_rows if most is None else min(most, num_rows)
    return [k * num_rows // num for k in range(num)]


def foreground(target: Any) -> float:
    """The fraction of a mask that is not background; of a one-hot mask, the first axis is the class."""
    mask = np.asarray(target)
    if mask.ndim >= 3 and 2 <= mask.shape[0] <= _MOST_CLASSES and bool((mask.sum(axis=0) == 1).all()):
        return float(1 - mask[0].mean())
    return float((mask > 0).mean())


def _raw_targets(dataset: Any, most: int | None) -> tuple[Array, bool]:
    """(n, width) targets, and whether they are of masks."""
    if (tensors := getattr(dataset, "tensors", None)) is not None:
        y = np.asarray(tensors[-1], dtype=np.float64)
        if y.size <= _LARGEST_TARGET * max(len(y), 1):
            return y.reshape(len(y), -1), False
    for name in ("targets", "labels"):
        known = getattr(dataset, name, None)
        if known is not None and np.ndim(known) == 1 and len(known) == len(dataset):
            return np.asarray(known, dtype=np.float64)[:, None], False
    rows: list[Array] = []
    is_mask = False
    for row in some_rows(len(dataset), most):
        target = _entry(dataset[row], -1)
        is_mask = target.size > _LARGEST_TARGET
        rows.append(np.array([foreground(target)]) if is_mask else target.reshape(-1).astype(np.float64))
    return np.stack(rows) if rows else np.zeros((0, 1)), is_mask


def _entry(sample: Any, place: int) -> NDArray[Any]:
    if not isinstance(sample, tuple | list) or len(sample) < 2:
        raise DatasetError(
            f"a sample is {type(sample).__name__}, not a tuple (input, …, target)",
            to_do="return a tuple of at least two entries, the target last",
        )
    # The second of three is the target of a sample that brings more, as a bag of tiles with their order does.
    found = sample[place] if place == 0 or len(sample) == 2 else sample[1]
    return np.asarray(found)


def _is_survival(values: Array) -> bool:
    if values.shape[1] != 2 or not len(values):
        return False
    event, time = values[:, 0], values[:, 1]
    return bool(np.isin(event, (0, 1)).all() and (time >= 0).all() and time.max() > 1)
