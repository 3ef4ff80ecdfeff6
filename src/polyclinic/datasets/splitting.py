"""Dealing samples out to artificial centers that differ on purpose.

Every method puts each sample into exactly one center, and at least one into each. With n samples, N centers and
groups g (classes, or quantiles of a number):

- ``dirichlet``: centers of equal size. Center k draws its mixture of groups q_k ~ Dirichlet(alpha * p), p the groups'
  shares in the training part, and then takes its samples in these proportions, to the nearest whole number and
  without replacement; a group that is used up is left out of the mixture. A large alpha gives equal centers, a small
  one centers of a single group. Hsu, Qi and Brown, Measuring the Effects of Non-Identical Data Distribution for
  Federated Visual Classification, 2019, arXiv:1909.06335.
- ``quantity``: sizes in proportion to Dirichlet(alpha, …, alpha), samples at random. Li et al., Federated Learning on
  Non-IID Data Silos, ICDE 2022, arXiv:2102.02079.
- ``linear``: sizes in proportion to 1, 2, …, N, samples at random.
- ``label`` and ``feature``: samples in the order of their group or value, cut into N pieces of equal size.

Training and test samples are dealt out apart with the same draws, so that a center's test part is like its training
part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from polyclinic.errors import ConfigError, DatasetError

METHODS = ("dirichlet", "linear", "quantity", "label", "feature")
Assignment = NDArray[np.int64]  # (n,) the center of each sample


def deal_out(
    method: str,
    keys: Sequence[NDArray[np.int64] | NDArray[np.float64]],
    num_centers: int,
    *,
    alpha: float,
    rng: np.random.Generator,
) -> list[Assignment]:
    """The center of each sample, for the training part and the test part.

    Args:
        method: one of `METHODS`.
        keys: (n,) of each part: the group's number (dirichlet, label) or the value (feature); of quantity and linear
            only the length counts.

    Raises:
        ConfigError: no such method, or an alpha or number of centers that makes no sense.
        DatasetError: fewer samples in a part than centers.
    """
    if method not in METHODS:
        raise ConfigError(f"there is no method {method!r}", to_do=f"choose one of {', '.join(METHODS)}")
    if num_centers < 2:
        raise ConfigError(f"cannot split into {num_centers} centers", to_do="give at least 2")
    if not 0 < alpha < float("inf"):
        raise ConfigError(f"alpha must be above 0 and finite, got {alpha}", to_do="0.1 is very uneven, 100 nearly even")
    for name, part in zip(("training", "test"), keys, strict=True):
        if len(part) < num_centers:
            raise DatasetError(
                f"{len(part)} {name} samples cannot be split into {num_centers} centers with one each",
                to_do=f"split into at most {max(len(part), 1)}",
            )
    if method in ("label", "feature"):
        return [_cut(part, num_centers, rng) for part in keys]
    if method == "dirichlet":
        return _mixtures(keys, num_centers, alpha, rng)
    shares = rng.dirichlet([alpha] * num_centers) if method == "quantity" else np.arange(1.0, num_centers + 1)
    dealt = [np.repeat(np.arange(num_centers), sizes_of(shares, len(part))) for part in keys]
    return [rng.permutation(part) for part in dealt]


def sizes_of(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers, at least 1 each, that add up to ``total`` and are as near to the shares as can be."""
    return 1 + _rounded(shares, total - len(shares))


def _rounded(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Whole numbers in proportion to the shares that add up to ``total``, by largest remainders."""
    exact = shares / shares.sum() * total
    whole: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: total - int(whole.sum())]] += 1
    return whole


def _even(total: int, num_centers: int) -> NDArray[np.int64]:
    sizes: NDArray[np.int64] = total // num_centers + (np.arange(num_centers) < total % num_centers)
    return sizes


def _cut(values: NDArray[np.int64] | NDArray[np.float64], num_centers: int, rng: np.random.Generator) -> Assignment:
    # Equal values in random order, so that no center gets the samples that stand first in the table.
    order = np.lexsort((rng.permutation(len(values)), values))
    found = np.empty(len(values), dtype=np.int64)
    found[order] = np.repeat(np.arange(num_centers), _even(len(values), num_centers))
    return found


def _mixtures(
    keys: Sequence[NDArray[np.int64] | NDArray[np.float64]], num_centers: int, alpha: float, rng: np.random.Generator
) -> list[Assignment]:
    groups = [part.astype(np.int64) for part in keys]
    num_groups = 1 + max(int(part.max()) for part in groups)
    prior = np.bincount(groups[0], minlength=num_groups) / len(groups[0])
    present = prior > 0
    mixtures = np.zeros((num_centers, num_groups))
    # A tiny alpha gives 0 / 0 where a mixture of one single group is meant: that is left to the draw's last resort.
    mixtures[:, present] = np.nan_to_num(rng.dirichlet(alpha * prior[present], num_centers))
    return [_draw(part, mixtures, rng) for part in groups]


def _draw(groups: Assignment, mixtures: NDArray[np.float64], rng: np.random.Generator) -> Assignment:
    """Gives each center its share of the samples, by its mixture and without replacement."""
    pools = [rng.permutation(np.flatnonzero(groups == group)).tolist() for group in range(mixtures.shape[1])]
    found = np.empty(len(groups), dtype=np.int64)
    for center, size in enumerate(_even(len(groups), len(mixtures))):
        need = int(size)
        while need:
            left = np.array([len(pool) for pool in pools])
            weights = np.where(left > 0, mixtures[center], 0.0)
            if weights.sum() <= 0:
                # All groups of its mixture are used up: it takes of the others what there is.
                weights = left.astype(np.float64)
            counts = np.minimum(_rounded(weights, need), left)
            for group in np.flatnonzero(counts):
                for _ in range(counts[group]):
                    found[pools[group].pop()] = center
            need -= int(counts.sum())
    return found
