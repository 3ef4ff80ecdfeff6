"""95 % intervals from counts. All are deterministic: the same counts give the same interval on any machine.

- Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927) 209-212.
- Newcombe, Interval estimation for the difference between independent proportions, Stat. Med. 17 (1998) 873-890,
  whose square-and-add rule Zou and Donner (Stat. Med. 27, 2008, 1693-1702) extended to linear combinations.
- Newcombe, Confidence intervals for an effect size measure based on the Mann-Whitney statistic, part 2,
  Stat. Med. 25 (2006) 559-573, method 5: the variance of Hanley and McNeil (Radiology 143, 1982, 29-36)
  taken at the limit instead of the estimate, so that an AUC of 1 still has an interval.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]

Z = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
NO_INTERVAL: Interval = (math.nan, math.nan)
DRAWS = 500


def wilson(proportion: float, trials: float) -> Interval:
    """Score interval of a proportion, in [0, 1]; nan without trials. ``trials`` may be an effective number."""
    if not trials > 0 or math.isnan(proportion):
        return NO_INTERVAL
    centre = (proportion + Z**2 / (2 * trials)) / (1 + Z**2 / trials)
    half = Z * math.sqrt(proportion * (1 - proportion) / trials + Z**2 / (4 * trials**2)) / (1 + Z**2 / trials)
    return min(max(centre - half, 0.0), proportion), max(min(centre + half, 1.0), proportion)


def mean_of_proportions(hits: NDArray[np.float64], trials: NDArray[np.float64]) -> Interval:
    """Interval of the unweighted mean of independent proportions: each one's Wilson limits, squared and added."""
    shares = hits / trials
    limits = np.array([wilson(p, n) for p, n in zip(shares, trials, strict=True)])
    value = float(shares.mean())
    below = math.sqrt(float(((shares - limits[:, 0]) ** 2).sum())) / len(shares)
    above = math.sqrt(float(((limits[:, 1] - shares) ** 2).sum())) / len(shares)
    return max(value - below, 0.0), min(value + above, 1.0)


def student_t(value: float, variance: float, num_samples: float, num_rows: float) -> Interval:
    """Interval of a mean of ``num_samples`` values whose ``variance`` was estimated from ``num_rows`` rows."""
    if not num_rows > 1:
        return NO_INTERVAL
    from scipy.special import stdtrit  # scipy.stats would take half a second to import

    half = float(stdtrit(num_rows - 1, 0.975)) * math.sqrt(variance / num_samples)
    return value - half, value + half


def mann_whitney(auc: float, positives: int, negatives: int) -> Interval:
    """Newcombe's method 5 for an area under the ROC curve; nan if a class is empty."""
    if math.isnan(auc):
        return NO_INTERVAL
    # The variance is the same for 1 - auc, so the upper limit is the lower one of the mirrored problem.
    return _lower_auc(auc, positives, negatives), 1 - _lower_auc(1 - auc, positives, negatives)


def _lower_auc(auc: float, positives: int, negatives: int) -> float:
    from scipy.optimize import brentq

    star = (positives + negatives) / 2 - 1

    def excess(limit: float) -> float:
        spread = 1 + star * (1 - limit) / (2 - limit) + star * limit / (1 + limit)
        variance = limit * (1 - limit) * spread / (positives * negatives)
        return auc - limit - Z * math.sqrt(variance)

    # Just below auc, because auc = 1 is a second root, which is not the limit.
    return float(brentq(excess, 0.0, auc - 1e-12)) if auc > 1e-12 and excess(auc - 1e-12) < 0 else auc


def posterior_draws(
    cells: NDArray[np.int64], function: Callable[[NDArray[np.float64]], NDArray[np.float64]]
) -> Interval:
    """Percentile interval of ``function`` over draws of the cells' probabilities given their counts.

    The draws come from the Dirichlet distribution with one sample's weight spread evenly over the cells (Perks'
    prior): a multinomial bootstrap that also works where a cell is empty, so that a perfect score on ten samples
    does not look certain. The generator is seeded by a hash of the counts.

    Args:
        cells: counts, any shape.
        function: from probabilities (DRAWS, *cells.shape) to (DRAWS,) values.
    """
    if not cells.sum():
        return NO_INTERVAL
    gammas = generator(cells).standard_gamma(cells + 1 / cells.size, size=(DRAWS, *cells.shape))
    probabilities = gammas / gammas.sum(axis=tuple(range(1, gammas.ndim)), keepdims=True)
    low, high = np.quantile(function(probabilities), [0.025, 0.975])
    return float(low), float(high)


def generator(*arrays: NDArray[np.generic]) -> np.random.Generator:
    """A generator that depends on the content of the arrays and on nothing else."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return np.random.default_rng(int.from_bytes(digest.digest(), "little"))


def around(
    value: float, interval: Interval, *, error_bound: float = 0.0, low: float = -math.inf, high: float = math.inf
) -> Interval:
    """The interval widened by the error bound, made to hold the value, and cut to the metric's range."""
    if math.isnan(value) or any(map(math.isnan, interval)):
        return NO_INTERVAL
    return (
        max(min(interval[0], value) - error_bound, low),
        min(max(interval[1], value) + error_bound, high),
    )
