"""Metrics whose pooled value is exact wherever the maths allows, from counts that add up over nodes."""

from polyclinic.metrics.confusion import Accuracy
from polyclinic.metrics.custom import CustomMetric
from polyclinic.metrics.means import MeanLoss, SampleMean
from polyclinic.metrics.metric import Counts, Estimate, Metric, Rows, add_counts, join_rows
from polyclinic.metrics.registry import METRICS, get_metric, metric_of_counts
from polyclinic.metrics.survival import ConcordanceIndex

__all__ = [
    "METRICS",
    "Accuracy",
    "ConcordanceIndex",
    "Counts",
    "CustomMetric",
    "Estimate",
    "MeanLoss",
    "Metric",
    "Rows",
    "SampleMean",
    "add_counts",
    "get_metric",
    "join_rows",
    "metric_of_counts",
]
