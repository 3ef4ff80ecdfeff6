"""Metrics whose pooled value is exact wherever the maths allows, from counts that add up over nodes."""

from polyclinic.metrics.confusion import Accuracy
from polyclinic.metrics.custom import CustomMetric
from polyclinic.metrics.means import MeanLoss, SampleMean
from polyclinic.metrics.metric import Counts, Estimate, Metric, Rows, add_counts, join_rows
from polyclinic.metrics.registry import METRICS, find_metric, get_metric, metric_of_counts
from polyclinic.metrics.survival import ConcordanceIndex
from polyclinic.metrics.survival_auc import TimeDependentAuc
from polyclinic.metrics.survival_brier import IntegratedBrierScore
from polyclinic.metrics.survival_times import survival_times

__all__ = [
    "METRICS",
    "Accuracy",
    "ConcordanceIndex",
    "Counts",
    "CustomMetric",
    "Estimate",
    "IntegratedBrierScore",
    "MeanLoss",
    "Metric",
    "Rows",
    "SampleMean",
    "TimeDependentAuc",
    "add_counts",
    "find_metric",
    "get_metric",
    "join_rows",
    "metric_of_counts",
    "survival_times",
]
