"""The metrics that can be asked for by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NoReturn

from polyclinic.errors import AggregationError, ConfigError, nearest
from polyclinic.metrics.confusion import CONFUSION_METRICS
from polyclinic.metrics.custom import CUSTOM_COUNTS, CustomMetric
from polyclinic.metrics.means import MEAN_COUNTS, MEAN_METRICS, SampleMean
from polyclinic.metrics.metric import Array, Metric
from polyclinic.metrics.r_squared import RSquared
from polyclinic.metrics.ranking import AveragePrecision, RocAuc
from polyclinic.metrics.survival import ConcordanceIndex
from polyclinic.metrics.survival_auc import TimeDependentAuc
from polyclinic.metrics.survival_brier import IntegratedBrierScore

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


# These are asked for with a horizon, in the unit of the target's times: "time_dependent_auc@1825".
HORIZON_METRICS: Mapping[str, type[TimeDependentAuc] | type[IntegratedBrierScore]] = MappingProxyType(
    {kind.kind: kind for kind in (TimeDependentAuc, IntegratedBrierScore)}
)


def get_metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        ConfigError: there is none, the nearest name is given; or its horizon is missing or is no positive number.
    """
    if (metric := find_metric(name)) is not None:
        return metric
    kind = name.partition("@")[0]
    if kind in HORIZON_METRICS:
        raise ConfigError(
            f"metric {name!r} needs a horizon", to_do=f"say up to when: {kind}@1825 is five years, where times are days"
        )
    raise ConfigError(f"unknown metric {name!r}", to_do=nearest(kind, [*METRICS, *HORIZON_METRICS]))


def find_metric(name: str) -> Metric | None:
    """The metric of this name, None if there is none; ConfigError for a horizon that is not positive."""
    kind, _, horizon = name.partition("@")
    if kind not in HORIZON_METRICS:
        return METRICS.get(name)
    try:
        number = float(horizon)
    except ValueError:
        return None
    return HORIZON_METRICS[kind](number)


def metric_of_counts(name: str, counts: Mapping[str, Array]) -> Metric:
    """A metric whose ``estimate`` reads these counts, also where only the nodes know the metric's own code.

    A dataset at a node may bring a `SampleMean` or a `CustomMetric` under any name. What they send is enough to pool
    it, so the researcher needs no copy of their code. Only ``estimate`` of the result is of use.

    Raises:
        AggregationError: counts of no kind that is known here.
    """
    if counts.keys() == CUSTOM_COUNTS:
        return CustomMetric(name, _only_at_the_node)
    if (metric := find_metric(name)) is not None:
        return metric
    if not counts or counts.keys() == MEAN_COUNTS:
        return SampleMean(name, _only_at_the_node)
    raise AggregationError(
        f"metric {name!r} came with counts that are not known here: {', '.join(sorted(counts))}",
        to_do="run the same version of Polyclinic at the nodes; write your own metric as SampleMean or CustomMetric",
    )


def _only_at_the_node(y_true: Array, y_pred: Array) -> NoReturn:
    raise NotImplementedError("the code of this metric is at the nodes")
