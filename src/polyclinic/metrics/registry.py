"""The metrics that can be asked for by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from polyclinic.errors import ConfigError, nearest
from polyclinic.metrics.confusion import CONFUSION_METRICS
from polyclinic.metrics.means import MEAN_METRICS
from polyclinic.metrics.metric import Metric
from polyclinic.metrics.r_squared import RSquared
from polyclinic.metrics.ranking import AveragePrecision, RocAuc
from polyclinic.metrics.survival import ConcordanceIndex

METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            *CONFUSION_METRICS,
            RocAuc(),
            AveragePrecision(),
            *MEAN_METRICS,
            RSquared(),
            ConcordanceIndex(),
        )
    }
)


def get_metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        ConfigError: there is none; the nearest name is given.
    """
    if name not in METRICS:
        raise ConfigError(f"unknown metric {name!r}", to_do=nearest(name, METRICS))
    return METRICS[name]
