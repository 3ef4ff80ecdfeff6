"""The strategies of protocol "polyclinic" and their hyper-parameters: defaults, and those that `tune` found.

Local training has ``lr``, ``optimizer`` ("sgd", "momentum", "adam" or "own"), ``num_updates``, and ``schedule``:
"constant", or "cosine" down to 0 over the rounds; the rest are arguments of the aggregator. "FineTuning" is FedAverage
whose model each node trains for ``fine_tune`` more batches.
"""

from __future__ import annotations

import inspect
import json
from functools import cache
from importlib import resources
from typing import Any

import torch

from polyclinic.aggregators import AGGREGATORS
from polyclinic.datasets.federated_dataset import FederatedDataset

Settings = dict[str, Any]

FINE_TUNING = "FineTuning"
LOCAL_TRAINING: Settings = {"lr": 0.1, "optimizer": "sgd", "num_updates": 10, "schedule": "constant"}
# These correct gradients of plain SGD, or count its steps.
SGD_ONLY = ("Scaffold", "FedNova", "FedDyn")
# What each node ends with is its own: judged on its own test data only.
PERSONAL = (FINE_TUNING, "FedBN", "FedRep", "Ditto")

_DEFAULTS: dict[str, Settings] = {
    "FedProx": {"mu": 0.01},
    "FedDyn": {"alpha": 0.1},
    "QFedAvg": {"q": 1.0},
    "Ditto": {"lam": 0.1},
    "Cyclic": {"order": "shuffled"},
    FINE_TUNING: {"fine_tune": 20},
}


def strategies(dataset: FederatedDataset) -> dict[str, Settings]:
    """Every strategy that fits the dataset's baseline and number of centers, with its hyper-parameters."""
    model = dataset.baseline()
    clients = dataset.num_clients
    found: dict[str, Settings] = {}
    for name in [*sorted(AGGREGATORS), FINE_TUNING]:
        own = dict(_DEFAULTS.get(name, {}))
        if name == "FedBN" and not _has_norms(model):
            continue
        if name == "FedRep":
            if (head := _head(model)) is None:
                continue
            own["head"] = [f"model.{head}"]
        if name in ("Krum", "MultiKrum", "TrimmedMean"):
            if clients < 3:
                continue
            # One client in four or five may be hostile, at least one where the rule allows it.
            own |= (
                {"fraction": max(0.25, 1 / clients)} if name == "TrimmedMean" else {"num_hostile": (clients - 3) // 2}
            )
        found[name] = _local_training(dataset.name, name) | own | tuned(dataset.name).get(name, {})
    return found


def _local_training(dataset: str, strategy: str) -> Settings:
    """What was tuned for FedAverage, where the strategy can use it; it begins a strategy's own search."""
    found = LOCAL_TRAINING | tuned(dataset).get("FedAverage", {})
    plain = found["optimizer"] == "sgd" or strategy not in SGD_ONLY
    return {name: found[name] for name in LOCAL_TRAINING} if plain else dict(LOCAL_TRAINING)


def baseline(dataset: str) -> Settings:
    """Of pooled and local training: what `tune` found, or the dataset's own optimizer and learning rate."""
    return {"lr": None, "optimizer": "own", "schedule": "constant"} | tuned(dataset).get("Pooled", {})


def known_settings(strategy: str) -> list[str]:
    """The names of a strategy's hyper-parameters."""
    kind = AGGREGATORS["FedAverage" if strategy == FINE_TUNING else strategy]
    own = [name for name in inspect.signature(kind).parameters if name != "self"]
    return [*LOCAL_TRAINING, *own, *(["fine_tune"] if strategy == FINE_TUNING else [])]


def aggregator_settings(strategy: str, settings: Settings) -> Settings:
    """Those that are the aggregator's."""
    own = {name: value for name, value in settings.items() if name not in (*LOCAL_TRAINING, "fine_tune")}
    if strategy == "QFedAvg":
        own.setdefault("lipschitz", 1 / settings["lr"])  # as its paper estimates it
    return own


@cache
def _all_tuned() -> dict[str, dict[str, Settings]]:
    with resources.files(__package__).joinpath("tuned.json").open(encoding="utf-8") as file:
        found: dict[str, dict[str, Settings]] = json.load(file)
    return found


def tuned(dataset: str) -> dict[str, Settings]:
    """The tuned hyper-parameters that ship for a dataset, by method; empty if there are none."""
    return _all_tuned().get(dataset, {})


def _has_norms(model: torch.nn.Module) -> bool:
    # torch has no public name for what its normalisations over a batch have in common.
    return any("Norm" in type(module).__name__ for module in model.modules())


def _head(model: torch.nn.Module) -> str | None:
    """The last layer with parameters; None if there is no other one."""
    layers = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    return layers[-1] if len(layers) > 1 else None
