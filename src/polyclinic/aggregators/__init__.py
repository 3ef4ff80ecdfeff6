"""Algorithms that make the next global model of the nodes' updates, one a file.

To add one: write its file (an `Aggregator`, and a `LocalRuleStep` if it changes local training), and name both here.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from polyclinic.aggregators.aggregator import Aggregator, LocalRuleStep
from polyclinic.aggregators.coordinate_median import CoordinateMedian
from polyclinic.aggregators.cyclic import Cyclic
from polyclinic.aggregators.ditto import Ditto, PersonalModel
from polyclinic.aggregators.fed_adagrad import FedAdagrad
from polyclinic.aggregators.fed_adam import FedAdam
from polyclinic.aggregators.fed_average import FedAverage
from polyclinic.aggregators.fed_avg_m import FedAvgM
from polyclinic.aggregators.fed_bn import FedBN
from polyclinic.aggregators.fed_dyn import FedDyn, TiltedLoss
from polyclinic.aggregators.fed_exp import FedExP
from polyclinic.aggregators.fed_nova import FedNova
from polyclinic.aggregators.fed_prox import FedProx, ProximalTerm
from polyclinic.aggregators.fed_rep import FedRep, HeadFirst
from polyclinic.aggregators.fed_yogi import FedYogi
from polyclinic.aggregators.geometric_median import GeometricMedian
from polyclinic.aggregators.krum import Krum
from polyclinic.aggregators.multi_krum import MultiKrum
from polyclinic.aggregators.q_fed_avg import QFedAvg
from polyclinic.aggregators.scaffold import Correction, Scaffold
from polyclinic.aggregators.trimmed_mean import TrimmedMean
from polyclinic.errors import ConfigError, nearest, reject_unknown
from polyclinic.messages.requests import LocalRule

_ALL: tuple[type[Aggregator], ...] = (
    CoordinateMedian,
    Cyclic,
    Ditto,
    FedAdagrad,
    FedAdam,
    FedAverage,
    FedAvgM,
    FedBN,
    FedDyn,
    FedExP,
    FedNova,
    FedProx,
    FedRep,
    FedYogi,
    GeometricMedian,
    Krum,
    MultiKrum,
    QFedAvg,
    Scaffold,
    TrimmedMean,
)
AGGREGATORS = {cls.__name__: cls for cls in _ALL}
_RULES: tuple[type[LocalRuleStep], ...] = (Correction, HeadFirst, PersonalModel, ProximalTerm, TiltedLoss)
LOCAL_RULES = {cls.name: cls for cls in _RULES}


def make_aggregator(name: str, settings: Mapping[str, Any]) -> Aggregator:
    """The aggregator of this class name, as `Aggregator.settings` describes it.

    Raises:
        ConfigError: if there is none, or its settings are unknown, missing or out of range.
    """
    if name not in AGGREGATORS:
        raise ConfigError(f"unknown aggregator {name!r}", to_do=nearest(name, AGGREGATORS))
    known = inspect.signature(AGGREGATORS[name]).parameters
    reject_unknown(settings, known, kind=f"setting of {name}")
    needed = {key for key, parameter in known.items() if parameter.default is parameter.empty}
    if missing := sorted(needed - settings.keys()):
        raise ConfigError(f"{name} needs {', '.join(missing)}", to_do=f"write {name}({missing[0]}=…)")
    return AGGREGATORS[name](**settings)


def make_local_rule(rule: LocalRule) -> LocalRuleStep:
    """What a node does for this rule of a request.

    Raises:
        ConfigError: if this version of Polyclinic does not know the rule.
    """
    if rule.name not in LOCAL_RULES:
        raise ConfigError(
            f"unknown local rule {rule.name!r}; {nearest(rule.name, LOCAL_RULES)}",
            to_do="install the researcher's version of Polyclinic at this node",
        )
    return LOCAL_RULES[rule.name](rule.numbers)


__all__ = [
    "AGGREGATORS",
    "LOCAL_RULES",
    "Aggregator",
    "CoordinateMedian",
    "Cyclic",
    "Ditto",
    "FedAdagrad",
    "FedAdam",
    "FedAverage",
    "FedAvgM",
    "FedBN",
    "FedDyn",
    "FedExP",
    "FedNova",
    "FedProx",
    "FedRep",
    "FedYogi",
    "GeometricMedian",
    "Krum",
    "MultiKrum",
    "QFedAvg",
    "Scaffold",
    "TrimmedMean",
    "make_aggregator",
    "make_local_rule",
]
