"""Polyclinic: train one model over many hospitals while every patient record stays where it is.

The public names are imported when they are first used, so that ``import polyclinic`` does not import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polyclinic.aggregators import Aggregator as Aggregator
    from polyclinic.aggregators import CoordinateMedian as CoordinateMedian
    from polyclinic.aggregators import Cyclic as Cyclic
    from polyclinic.aggregators import Ditto as Ditto
    from polyclinic.aggregators import FedAdagrad as FedAdagrad
    from polyclinic.aggregators import FedAdam as FedAdam
    from polyclinic.aggregators import FedAverage as FedAverage
    from polyclinic.aggregators import FedAvgM as FedAvgM
    from polyclinic.aggregators import FedBN as FedBN
    from polyclinic.aggregators import FedDyn as FedDyn
    from polyclinic.aggregators import FedExP as FedExP
    from polyclinic.aggregators import FedNova as FedNova
    from polyclinic.aggregators import FedProx as FedProx
    from polyclinic.aggregators import FedRep as FedRep
    from polyclinic.aggregators import FedYogi as FedYogi
    from polyclinic.aggregators import GeometricMedian as GeometricMedian
    from polyclinic.aggregators import Krum as Krum
    from polyclinic.aggregators import MultiKrum as MultiKrum
    from polyclinic.aggregators import QFedAvg as QFedAvg
    from polyclinic.aggregators import Scaffold as Scaffold
    from polyclinic.aggregators import TrimmedMean as TrimmedMean
    from polyclinic.errors import PolyclinicError as PolyclinicError
    from polyclinic.experiment.evaluation import Evaluation as Evaluation
    from polyclinic.experiment.experiment import Experiment as Experiment
    from polyclinic.experiment.history import History as History
    from polyclinic.experiment.observers import Checkpoint as Checkpoint
    from polyclinic.experiment.observers import EarlyStopping as EarlyStopping
    from polyclinic.experiment.observers import Observer as Observer
    from polyclinic.experiment.observers import TensorBoard as TensorBoard
    from polyclinic.experiment.progress import ProgressBar as ProgressBar
    from polyclinic.federation.federation import Federation as Federation
    from polyclinic.federation.in_process import InProcessFederation as InProcessFederation
    from polyclinic.federation.processes import ProcessFederation as ProcessFederation
    from polyclinic.federation.simulation import simulate as simulate
    from polyclinic.federation.stacked import StackedFederation as StackedFederation
    from polyclinic.messages.training_args import TrainingArgs as TrainingArgs
    from polyclinic.plans.torch_plan import TorchTrainingPlan as TorchTrainingPlan

__version__ = "0.1.0"

_WHERE = {
    "Aggregator": "polyclinic.aggregators",
    "Checkpoint": "polyclinic.experiment.observers",
    "CoordinateMedian": "polyclinic.aggregators",
    "Cyclic": "polyclinic.aggregators",
    "Ditto": "polyclinic.aggregators",
    "EarlyStopping": "polyclinic.experiment.observers",
    "Evaluation": "polyclinic.experiment.evaluation",
    "Experiment": "polyclinic.experiment.experiment",
    "FedAdagrad": "polyclinic.aggregators",
    "FedAdam": "polyclinic.aggregators",
    "FedAverage": "polyclinic.aggregators",
    "FedAvgM": "polyclinic.aggregators",
    "FedBN": "polyclinic.aggregators",
    "FedDyn": "polyclinic.aggregators",
    "FedExP": "polyclinic.aggregators",
    "FedNova": "polyclinic.aggregators",
    "FedProx": "polyclinic.aggregators",
    "FedRep": "polyclinic.aggregators",
    "FedYogi": "polyclinic.aggregators",
    "Federation": "polyclinic.federation.federation",
    "GeometricMedian": "polyclinic.aggregators",
    "History": "polyclinic.experiment.history",
    "InProcessFederation": "polyclinic.federation.in_process",
    "Krum": "polyclinic.aggregators",
    "MultiKrum": "polyclinic.aggregators",
    "Observer": "polyclinic.experiment.observers",
    "PolyclinicError": "polyclinic.errors",
    "ProcessFederation": "polyclinic.federation.processes",
    "ProgressBar": "polyclinic.experiment.progress",
    "QFedAvg": "polyclinic.aggregators",
    "Scaffold": "polyclinic.aggregators",
    "StackedFederation": "polyclinic.federation.stacked",
    "TensorBoard": "polyclinic.experiment.observers",
    "TorchTrainingPlan": "polyclinic.plans.torch_plan",
    "TrainingArgs": "polyclinic.messages.training_args",
    "TrimmedMean": "polyclinic.aggregators",
    "simulate": "polyclinic.federation.simulation",
}

__all__ = [
    "Aggregator",
    "Checkpoint",
    "CoordinateMedian",
    "Cyclic",
    "Ditto",
    "EarlyStopping",
    "Evaluation",
    "Experiment",
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
    "Federation",
    "GeometricMedian",
    "History",
    "InProcessFederation",
    "Krum",
    "MultiKrum",
    "Observer",
    "PolyclinicError",
    "ProcessFederation",
    "ProgressBar",
    "QFedAvg",
    "Scaffold",
    "StackedFederation",
    "TensorBoard",
    "TorchTrainingPlan",
    "TrainingArgs",
    "TrimmedMean",
    "simulate",
]


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'polyclinic' has no attribute {name!r}")
    return getattr(importlib.import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
