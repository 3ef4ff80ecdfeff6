"""ROC AUC and average precision: exact at a node, and pooled from a fine histogram of scores for each class.

The pooled value is the metric of the binned scores: scores in one bin count as ties. Its error bound is derived
from the pairs that the bins leave undecided, and is computed from the counts themselves.

Area under the ROC curve (Hanley and McNeil, Radiology 143, 1982, 29-36): with P positives and N negatives it is the
share of the P N pairs in which the positive has the higher score, ties counting half. A pair in different bins is
decided, one in the same bin counts 1/2 and may be 0 or 1, so the error is at most 1/2 Σ_b pos_b neg_b / (P N).

Average precision: 1/P times the sum, over the positives, of the precision TP / (TP + FP) at their score. Let a bin
hold p positives and f negatives, with TP and FP in the bins above. Whatever the order and the ties in it, the bin's
sum lies between that of all its negatives first, Σ_{j=1..p} (TP + j) / (TP + j + FP + f), and that of all its
positives first and tied, p (TP + p) / (TP + p + FP). The bounds of the bins add up.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod

import numpy as np
from numpy.typing import NDArray

from polyclinic.metrics.confusion import check_two_classes
from polyclinic.metrics.intervals import Interval, around, mann_whitney, wilson
from polyclinic.metrics.metric import NO_ESTIMATE, Array, Counts, Estimate, Metric, Rows
from polyclinic.metrics.predictions import num_classes, positive_and_score

NUM_BINS = 10_000


@functools.cache
def score_edges(num_bins: int = NUM_BINS) -> NDArray[np.float64]:
    """The ``num_bins - 1`` inner edges of the score bins: fixed, so that every node has the same ones.

    Half of the bins cover [0, 1]: u^4 / 2 for even steps of u in [0, 1], mirrored at 1/2, which is fine near 0 and 1,
    where the probabilities of rare diseases lie. A quarter each covers the scores below 0 and above 1 by
    4 v / (1 - v) for even steps of v in [0, 1), which is 0.002 wide near 0 and reaches to 10,000 and beyond.
    Only + - * / are used, whose results are the same on every machine.
    """
    quarter = num_bins // 4
    steps = np.arange(quarter) / quarter
    tail = 4 * steps / (1 - steps)
    squares = steps * steps
    lower_half = squares * squares / 2
    edges = np.concatenate([-tail[:0:-1], lower_half, [0.5], 1 - lower_half[::-1], 1 + tail[1:]])
    edges.flags.writeable = False
    return edges


class RankingMetric(Metric):
    """A metric of how scores rank positives before negatives. Scores may have any range."""

    def rows(self, y_true: Array, y_pred: Array) -> Rows:
        """``positive`` (n,) bool and ``score`` (n,) float64."""
        check_two_classes(self.name, num_classes(np.asarray(y_pred)))
        positive, score = positive_and_score(y_true, y_pred)
        return {"positive": positive, "score": score}

    def counts(self, rows: Rows) -> Counts:
        """``positive`` and ``negative``: int64 histograms of NUM_BINS bins."""
        if not rows:
            return {}
        bins = np.searchsorted(score_edges(), rows["score"], side="right")
        positive = rows["positive"]
        return {
            "positive": np.bincount(bins[positive], minlength=NUM_BINS).astype(np.int64),
            "negative": np.bincount(bins[~positive], minlength=NUM_BINS).astype(np.int64),
        }

    def value(self, rows: Rows) -> float:
        if not rows or not self._defined(int(rows["positive"].sum()), int((~rows["positive"]).sum())):
            return math.nan
        return self._exact(rows["positive"], rows["score"])

    def estimate(self, counts: Counts) -> Estimate:
        if not counts:
            return NO_ESTIMATE
        # Highest scores first; empty bins change nothing.
        occupied = (counts["positive"] + counts["negative"] > 0)[::-1]
        positive = counts["positive"][::-1][occupied].astype(np.float64)
        negative = counts["negative"][::-1][occupied].astype(np.float64)
        positives, negatives = int(positive.sum()), int(negative.sum())
        if not self._defined(positives, negatives):
            return Estimate(math.nan, math.nan, math.nan, positives + negatives)
        value, bound = self._binned(positive, negative)
        interval = around(value, self._interval(value, positives, negatives), error_bound=bound, low=0.0, high=1.0)
        return Estimate(value, *interval, positives + negatives, error_bound=bound)

    @abstractmethod
    def _defined(self, positives: int, negatives: int) -> bool:
        """Whether the metric exists for so many positives and negatives."""

    @abstractmethod
    def _exact(self, positive: Array, score: Array) -> float: ...

    @abstractmethod
    def _binned(self, positive: NDArray[np.float64], negative: NDArray[np.float64]) -> tuple[float, float]:
        """Value and error bound from counts in bins, highest scores first."""

    @abstractmethod
    def _interval(self, value: float, positives: int, negatives: int) -> Interval: ...


class RocAuc(RankingMetric):
    """Area under the ROC curve; nan unless both classes occur. Interval: Newcombe 2006, method 5."""

    name = "roc_auc"

    def _defined(self, positives: int, negatives: int) -> bool:
        return positives > 0 and negatives > 0

    def _exact(self, positive: Array, score: Array) -> float:
        from sklearn.metrics import roc_auc_score

        return float(roc_auc_score(positive, score))

    def _binned(self, positive: NDArray[np.float64], negative: NDArray[np.float64]) -> tuple[float, float]:
        pairs = positive.sum() * negative.sum()
        tied = float((positive * negative).sum())
        # For each bin of negatives, the positives in the bins above.
        won = float(((np.cumsum(positive) - positive) * negative).sum())
        return (won + tied / 2) / pairs, tied / 2 / pairs

    def _interval(self, value: float, positives: int, negatives: int) -> Interval:
        return mann_whitney(value, positives, negatives)


class AveragePrecision(RankingMetric):
    """Average precision, the step-wise area under the precision-recall curve; nan without positives.

    Interval: of a proportion among the positives (Boyd, Eng and Page, ECML PKDD 2013), by
    Wilson's formula.
    """

    name = "average_precision"

    def _defined(self, positives: int, negatives: int) -> bool:  # noqa: ARG002  # negatives may be absent
        return positives > 0

    def _exact(self, positive: Array, score: Array) -> float:
        from sklearn.metrics import average_precision_score

        return float(average_precision_score(positive, score))

    def _binned(self, positive: NDArray[np.float64], negative: NDArray[np.float64]) -> tuple[float, float]:
        from scipy.special import digamma

        p, f = positive, negative
        tp, fp = np.cumsum(p) - p, np.cumsum(f) - f
        # Bins without positives add nothing, and their quotients may be 0 / 0.
        p, f, tp, fp = (column[p > 0] for column in (p, f, tp, fp))
        tied = p * (tp + p) / (tp + p + fp + f)
        best = p * (tp + p) / (tp + p + fp)
        # Σ_j (TP + j) / (TP + j + a) = p - a Σ_j 1 / (TP + j + a), a difference of harmonic numbers.
        a = fp + f
        worst = p - a * (digamma(tp + p + a + 1) - digamma(tp + a + 1))
        low, value, high = (float(column.sum() / p.sum()) for column in (worst, tied, best))
        return value, max(high - value, value - low, 0.0)

    def _interval(self, value: float, positives: int, negatives: int) -> Interval:  # noqa: ARG002
        return wilson(value, positives)
