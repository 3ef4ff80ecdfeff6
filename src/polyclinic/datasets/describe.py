"""How the centers of a dataset differ: sizes, targets, features or images, as tables and one figure.

It reads the data, so it runs where they are; what it tells are counts, means and standard deviations of each center.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from polyclinic.datasets.artificial import PARTS, ArtificialDataset
from polyclinic.datasets.contents import Array, Targets, read_features, read_targets, some_rows
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import DatasetError
from polyclinic.randomness import seeded

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_SHOWN = 20  # features, in the table
_NUM_BINS = 5  # groups of a target that is a number
_SEED = 0

Rows = list[tuple[str, ...]]


@dataclass(frozen=True)
class ImageStatistics:
    """Of the first inputs of some samples of one center."""

    num_read: int
    shapes: tuple[tuple[int, ...], ...]  # those that occur, sorted
    means: Array  # (n,) of each sample
    medians: Array  # (n,)
    stds: Array  # (n,) population standard deviation within each sample


@dataclass(frozen=True)
class Description:
    """What `describe` found; centers whose data are not there are in ``absent``, with the reason, and nowhere else."""

    name: str
    centers: tuple[str, ...]
    sizes: NDArray[np.int64]  # (centers, 2): train, test
    targets: tuple[Targets, ...]  # of each center, train and test together
    group_names: tuple[str, ...]
    group_counts: NDArray[np.int64]  # (centers, groups)
    feature_names: tuple[str, ...] = ()
    features: tuple[Array, ...] = ()  # (n, d) of each center, of tables
    images: tuple[ImageStatistics, ...] = ()
    origins: tuple[tuple[str, ...], NDArray[np.int64]] | None = None  # of artificial centers: (centers, old ones)
    absent: Mapping[str, str] = field(default_factory=dict)

    def differences(self) -> Array:
        """(centers, features): a center's mean less the mean of all samples, in standard deviations of all samples."""
        together = np.concatenate(self.features)
        std = together.std(axis=0)
        # Of a constant feature rounding alone would make a difference.
        is_constant = std <= 1e-6 * np.maximum(1.0, np.abs(together).max(axis=0))
        means = np.stack([center.mean(axis=0) for center in self.features]) - together.mean(axis=0)
        differences: Array = np.where(is_constant, 0.0, means / np.where(is_constant, 1.0, std))
        return differences

    def tables(self) -> list[tuple[str, tuple[str, ...], Rows]]:
        """Title, head and rows of each table."""
        found = [self._centers_table()]
        if self.features:
            found.append(self._features_table())
        if self.images:
            found.append(self._images_table())
        return found

    def _centers_table(self) -> tuple[str, tuple[str, ...], Rows]:
        kind = self.targets[0].kind
        head = ["center", "train", "test"]
        head += {"number": ["target, mean ± sd"], "mask": ["foreground, mean ± sd"]}.get(kind, list(self.group_names))
        head += ["median time"] if kind == "survival" else []
        rows: Rows = []
        for k, center in enumerate(self.centers):
            values, counts = self.targets[k].values, self.group_counts[k]
            row = [center, *map(str, self.sizes[k])]
            if kind in ("number", "mask"):
                row.append(f"{values.mean():.3g} ± {values.std():.2g}")
            else:
                row += [f"{count / max(counts.sum(), 1):.0%}" for count in counts]
            if kind == "survival":
                row.append(f"{np.median(values[:, 1]):.4g}")
            rows.append(tuple(row))
        return f"{self.name}: samples and targets", tuple(head), rows

    def _features_table(self) -> tuple[str, tuple[str, ...], Rows]:
        differences = self.differences()
        order = np.argsort(-np.abs(differences).max(axis=0), kind="stable")[:_MOST_SHOWN]
        rows: Rows = []
        for number in order:
            cells = (f"{x[:, number].mean():.3g} ± {x[:, number].std():.2g}" for x in self.features)
            rows.append((self.feature_names[number], *cells))
        title = f"Features, mean ± sd; the {len(order)} of {differences.shape[1]} that differ most come first"
        return title, ("feature", *self.centers), rows

    def _images_table(self) -> tuple[str, tuple[str, ...], Rows]:
        rows: Rows = []
        for center, found in zip(self.centers, self.images, strict=True):
            shape = " x ".join(map(str, found.shapes[0])) + (f" and {n} more" if (n := len(found.shapes) - 1) else "")
            # Rounded to six places: of standardised images the rest of a mean is noise.
            numbers = (f"{round(float(x.mean()), 6) + 0.0:.3g}" for x in (found.means, found.medians, found.stds))
            rows.append((center, str(found.num_read), shape, *numbers))
        return "Inputs of some samples", ("center", "read", "shape", "mean", "median", "sd within"), rows

    def plot(self, path: str | Path | None = None) -> Figure:
        """One figure of all of it; saved when a path is given (PNG, PDF or SVG, by its ending)."""
        from polyclinic.datasets.describe_figure import draw

        figure = draw(self)
        if path is not None:
            figure.savefig(path, dpi=110)
        return figure


def describe(
    dataset: FederatedDataset,
    data_path: str | Path | None = None,
    *,
    options: Mapping[str, Any] | None = None,
    most: int = 32,
) -> Description:
    """Describes the centers of a dataset that are in the data at this path.

    Args:
        options: of the dataset's class.
        most: samples to read of each part, train and test, where a sample is no row of a table.

    Raises:
        DatasetError: the data of no center are there.
    """
    options = dict(options or {})
    path = dataset.ensure_prepared(data_path, **options)
    centers: list[str] = []
    parts: list[Any] = []
    absent: dict[str, str] = {}
    # Training parts may augment at random: here they give the same each time, and nobody's generator is touched.
    with seeded(_SEED):
        for number, name in enumerate(dataset.centers_at(path)):
            try:
                both = [dataset.build(number, part == "train", path, **options) for part in PARTS]
            except DatasetError as err:
                absent[name] = err.what
                continue
            centers.append(name)
            parts += both
        if not centers:
            name, why = next(iter(absent.items()))
            raise DatasetError(f"there are no data of any center; {name}: {why}", to_do="check --data")
        targets = [_joined(pair) for pair in _pairs(read_targets(parts, most))]
        features = [read_features(part) for part in parts]
        is_table = all(x is not None for x in features)
        images = () if is_table else tuple(_image_statistics(pair, most) for pair in _pairs(parts))
    tables = tuple(np.concatenate(pair) for pair in _pairs([x for x in features if x is not None])) if is_table else ()
    group_names, group_counts = _group_counts(targets)
    names = tuple(getattr(dataset.module, "FEATURES", ()))
    width = tables[0].shape[1] if tables else 0
    return Description(
        name=dataset.name,
        centers=tuple(centers),
        sizes=np.array([[len(part) for part in pair] for pair in _pairs(parts)]),
        targets=tuple(targets),
        group_names=tuple(group_names),
        group_counts=group_counts,
        feature_names=names if len(names) == width else tuple(f"feature {k}" for k in range(width)),
        features=tables,
        images=images,
        origins=_origins(dataset, path) if isinstance(dataset, ArtificialDataset) else None,
        absent=absent,
    )


def _pairs(items: Sequence[Any]) -> list[tuple[Any, Any]]:
    return list(zip(items[::2], items[1::2], strict=True))


def _joined(pair: tuple[Targets, Targets]) -> Targets:
    return Targets(pair[0].kind, np.concatenate([part.values for part in pair]))


def _group_counts(targets: Sequence[Targets]) -> tuple[list[str], NDArray[np.int64]]:
    together = Targets(targets[0].kind, np.concatenate([target.values for target in targets]))
    codes, names = together.groups(_NUM_BINS)
    ends = np.cumsum([len(target.values) for target in targets])[:-1]
    return names, np.stack([np.bincount(part, minlength=len(names)) for part in np.split(codes, ends)])


def _image_statistics(pair: tuple[Any, Any], most: int) -> ImageStatistics:
    shapes: set[tuple[int, ...]] = set()
    numbers: list[tuple[float, float, float]] = []
    # One at a time and as they are: a sample may be all patches of a scan, some hundred megabytes.
    for part in pair:
        for row in some_rows(len(part), most):
            x = np.asarray(part[row][0])
            shapes.add(x.shape)
            numbers.append((float(x.mean(dtype=np.float64)), float(np.median(x)), float(x.std(dtype=np.float64))))
    means, medians, stds = np.array(numbers).reshape(-1, 3).T
    return ImageStatistics(len(numbers), tuple(sorted(shapes)), means, medians, stds)


def _origins(dataset: ArtificialDataset, path: Path | None) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    names = dataset.source.centers_at(path)
    counts = np.zeros((len(dataset.split.centers), len(names)), dtype=np.int64)
    for number, center in enumerate(dataset.split.centers):
        for part in PARTS:
            for old, rows in center[part].items():
                counts[number, int(old)] += len(rows)
    return names, counts
