"""Made-up federated data with dials: how unequal the centers are in size, noise, features and labels.

Classification: the classes' means are random points on the unit sphere; a sample of class c at center i is
N(mean_c + shift_ic, 0.1 I / snr_i), where shift_ic is uniform in [0, h]^d and h is ``features_heterogeneity``.
Regression: y = x·w + noise with log-normal w, x ~ N(shift_i, I) and var(noise) = mean((x·w)²) / snr_i.

The recipe is that of Fed-Synthetic in FLamby (du Terrail et al., NeurIPS 2022, arXiv:2210.04620), draw for draw.
There the seed has no effect, and a class's shifts add up from one center to the next: ``flamby_compatible=True``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import ConfigError

Array = NDArray[np.float64]

FLAMBY_SEED = 42
FLAMBY_SNR = 3.0
NUM_CLIENTS = 4
SMALLEST_CENTER = 2  # one sample to train on and one to test with
_GUARANTEED = 5  # samples of each center before a power law shares out the rest
_CLASS_VARIANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is generated. The defaults are four equal centers of 250 samples in three classes.

    Attributes:
        n_centers: FLamby's own default is 6, beside a NUM_CLIENTS of 4; here both are 4.
        n_samples: of all centers together.
        n_features: the dimension d of a sample.
        seed: of all that is drawn; without effect with ``flamby_compatible``.
        snr: signal-to-noise ratio, the same at each center.
        classification: False: a regression.
        sample_repartition: None: equal sizes. A number a > 1: center i gets 5 samples, and of the rest a share in
            proportion to (i + 1)^(1 - a). A list: each center's share.
        noise_heterogeneity: a signal-to-noise ratio for each center, instead of ``snr``.
        features_heterogeneity: how far the features of centers lie apart, h above; None: not at all.
        label_heterogeneity: labels of a center are shared out by a draw from the Dirichlet distribution with this
            concentration, so a small number gives each center mostly one class; None: equal shares.
        n_clusters: number of classes.
        flamby_compatible: seed 42 whatever ``seed`` is, and shifts of the classes that add up.

    Raises:
        ConfigError: values that contradict each other, or that nothing can be drawn with.
    """

    n_centers: int = NUM_CLIENTS
    n_samples: int = 1000
    n_features: int = 10
    seed: int = 42
    snr: float = FLAMBY_SNR
    classification: bool = True
    sample_repartition: float | Sequence[float] | None = None
    noise_heterogeneity: Sequence[float] | None = None
    features_heterogeneity: float | None = None
    label_heterogeneity: float | None = None
    n_clusters: int = 3
    flamby_compatible: bool = False

    def __post_init__(self) -> None:
        for name, least in (("n_centers", 1), ("n_samples", 1), ("n_features", 1), ("seed", 0), ("n_clusters", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"{name} must be a whole number of at least {least}, not {value!r}", to_do=f"change {name}"
                )
        if self.n_samples < SMALLEST_CENTER * self.n_centers:
            raise ConfigError(
                f"{self.n_samples} samples are too few for {self.n_centers} centers",
                to_do=f"ask for at least {SMALLEST_CENTER} samples a center",
            )
        for name in ("snr", "features_heterogeneity", "label_heterogeneity"):
            if getattr(self, name) is not None:
                _check_positive(name, [getattr(self, name)], zero=name == "features_heterogeneity")
        self._check_lists()
        if self.label_heterogeneity is not None and not self.classification:
            raise ConfigError("a regression has no classes to share out", to_do="leave label_heterogeneity out")

    def _check_lists(self) -> None:
        for name in ("sample_repartition", "noise_heterogeneity"):
            values = getattr(self, name)
            if values is None:
                continue
            if name == "sample_repartition" and not isinstance(values, Sequence):
                _check_positive(name, [values])
                if values <= 1:
                    raise ConfigError(
                        f"sample_repartition is the exponent of a power law and must be above 1, not {values!r}",
                        to_do="give a larger number, or a list with each center's share",
                    )
                continue
            if isinstance(values, str) or not isinstance(values, Sequence) or len(values) != self.n_centers:
                raise ConfigError(
                    f"{name} must be a list of {self.n_centers} numbers, one for each center",
                    to_do=f"give {self.n_centers} numbers, or change n_centers",
                )
            _check_positive(name, values, zero=name == "sample_repartition")
        if self.noise_heterogeneity is not None and self.snr != FLAMBY_SNR:
            raise ConfigError(
                "snr and noise_heterogeneity were both given, and both say how noisy the centers are",
                to_do="give one of the two",
            )


def synthetic_data(options: Options) -> list[tuple[Array, Array]]:
    """(n, d) features and (n, 1) targets of each center; classes are 0, 1, … and stand in this order.

    Raises:
        ConfigError: a center gets fewer than two samples.
    """
    rng = np.random.default_rng(FLAMBY_SEED if options.flamby_compatible else options.seed)
    sizes = _sizes(options, rng)
    if min(sizes) < SMALLEST_CENTER:
        raise ConfigError(
            f"center {int(np.argmin(sizes))} would get {min(sizes)} samples, which cannot be split",
            to_do="ask for more samples, or for more equal shares",
        )
    noise = options.noise_heterogeneity
    snr = np.full(options.n_centers, options.snr) if noise is None else np.asarray(noise, dtype=np.float64)
    make = _classes if options.classification else _regression
    return make(options, rng, sizes, snr)


def _sizes(options: Options, rng: np.random.Generator) -> list[int]:
    n, centers, given = options.n_samples, options.n_centers, options.sample_repartition
    if given is None:
        return _equal(n, centers)
    if isinstance(given, Sequence):
        shares, least = np.asarray(given, dtype=np.float64), 0
    else:
        shares, least = np.arange(1.0, centers + 1) ** (1 - given), _GUARANTEED
        if n < least * centers:
            raise ConfigError(
                f"{n} samples are too few for {centers} centers of at least {least}", to_do="ask for more samples"
            )
    drawn = rng.choice(centers, size=n - least * centers, p=shares / shares.sum())
    return [int(count) + least for count in np.bincount(drawn, minlength=centers)]


def _equal(total: int, parts: int) -> list[int]:
    """As equal as can be, the remainder to the first parts."""
    return [total // parts + (part < total % parts) for part in range(parts)]


def _classes(options: Options, rng: np.random.Generator, sizes: list[int], snr: Array) -> list[tuple[Array, Array]]:
    points = rng.normal(size=(options.n_features, options.n_clusters))
    means = (points / np.linalg.norm(points, axis=0)).T
    # All labels are drawn before the first sample is.
    counts = [_labels(options, rng, size) for size in sizes]
    centers = []
    for center, per_class in enumerate(counts):
        parts = []
        for label, count in enumerate(per_class):
            mean = means[label]
            if options.features_heterogeneity:
                mean = mean + options.features_heterogeneity * rng.random(options.n_features)
                if options.flamby_compatible:
                    means[label] = mean
            spread = math.sqrt(_CLASS_VARIANCE / snr[center])
            parts.append(mean + spread * rng.standard_normal((count, options.n_features)))
        labels = np.repeat(np.arange(options.n_clusters, dtype=np.float64), per_class)
        centers.append((np.concatenate(parts), labels[:, None]))
    return centers


def _labels(options: Options, rng: np.random.Generator, size: int) -> list[int]:
    """How many samples of each class a center gets."""
    if options.label_heterogeneity is None:
        return _equal(size, options.n_clusters)
    shares = rng.dirichlet(np.full(options.n_clusters, options.label_heterogeneity))
    counts = np.floor(shares * size).astype(int)
    return [int(count) + (label < size - counts.sum()) for label, count in enumerate(counts)]


def _regression(options: Options, rng: np.random.Generator, sizes: list[int], snr: Array) -> list[tuple[Array, Array]]:
    shape = (options.n_centers, options.n_features)
    heterogeneity = options.features_heterogeneity
    shifts = np.zeros(shape) if heterogeneity is None else heterogeneity * rng.random(shape)
    weights = rng.lognormal(sigma=1.0, size=options.n_features)
    centers = []
    for center, size in enumerate(sizes):
        x = shifts[center] + rng.standard_normal((size, options.n_features))
        signal = x @ weights
        noise = rng.normal(scale=math.sqrt(np.mean(signal**2) / snr[center]), size=size)
        centers.append((x, (signal + noise)[:, None]))
    return centers


def _check_positive(name: str, values: Sequence[float], *, zero: bool = False) -> None:
    for value in values:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not is_number or value < 0 or (value == 0 and not zero):
            raise ConfigError(
                f"{name} must be {'at least' if zero else 'above'} 0, not {value!r}", to_do=f"change {name}"
            )
    if not any(values) and name == "sample_repartition":
        raise ConfigError("the shares in sample_repartition are all 0", to_do="give each center a share")
