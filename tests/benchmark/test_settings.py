from __future__ import annotations

from types import ModuleType

import pytest
import torch

from polyclinic.aggregators import AGGREGATORS, make_aggregator
from polyclinic.benchmark import settings as module
from polyclinic.benchmark.plans import OPTIMIZERS
from polyclinic.benchmark.settings import (
    FINE_TUNING,
    PERSONAL,
    aggregator_settings,
    baseline,
    known_settings,
    strategies,
    tuned,
)
from polyclinic.datasets.federated_dataset import FederatedDataset, known_datasets


def dataset_of(model, clients):
    """The least that a federated dataset is, with this model."""
    found = ModuleType("tiny")
    found.__dict__.update(
        Baseline=lambda: model,
        NUM_CLIENTS=clients,
        BATCH_SIZE=1,
        LR=0.1,
        NUM_EPOCHS_POOLED=1,
        **dict.fromkeys(["BaselineLoss", "FedClass", "Optimizer", "get_nb_max_rounds", "metric"], lambda: None),
    )
    return FederatedDataset(found)


DEEP = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
FLAT = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Sigmoid())


def test_all_strategies_where_all_fit():
    assert list(strategies(dataset_of(DEEP, 5))) == [*sorted(AGGREGATORS), FINE_TUNING]


@pytest.mark.parametrize(
    ("model", "clients", "missing"),
    [
        (FLAT, 5, {"FedBN", "FedRep"}),  # no normalisation, and a head alone
        (DEEP, 2, {"Krum", "MultiKrum", "TrimmedMean"}),  # nobody's update is near to others'
        (DEEP, 3, set()),
    ],
    ids=["flat", "two", "three"],
)
def test_strategies_that_do_not_fit_are_left_out(model, clients, missing):
    found = strategies(dataset_of(model, clients))
    assert {*AGGREGATORS, FINE_TUNING} - set(found) == missing


def test_the_head_is_the_last_layer_with_parameters():
    assert strategies(dataset_of(DEEP, 4))["FedRep"]["head"] == ["model.3"]


@pytest.mark.parametrize("clients", range(3, 10))
def test_hostile_clients_are_as_many_as_krum_bears(clients):
    found = strategies(dataset_of(DEEP, clients))
    hostile = found["Krum"]["num_hostile"]
    # Krum needs K >= 2 f + 3.
    assert 2 * hostile + 3 <= clients < 2 * (hostile + 1) + 3
    assert found["MultiKrum"]["num_hostile"] == hostile
    assert 1 <= found["TrimmedMean"]["fraction"] * clients < clients / 2


@pytest.mark.parametrize("dataset", ["fed_heart_disease", "fed_tcga_brca", "fed_synthetic"])
def test_every_strategys_settings_are_taken_by_it(dataset):
    for name, settings in strategies(FederatedDataset.load(dataset)).items():
        assert set(settings) <= set(known_settings(name)), name
        own = aggregator_settings(name, settings)
        made = make_aggregator("FedAverage" if name == FINE_TUNING else name, own)
        assert not {"lr", "optimizer", "num_updates", "schedule", "fine_tune"} & set(own)
        assert {key: made.settings[key] for key in own if key != "head"} == {
            k: v for k, v in own.items() if k != "head"
        }


def test_what_was_tuned_takes_the_place_of_defaults(monkeypatch):
    found = {
        "FedProx": {"mu": 5.0, "lr": 0.03},
        "FedAverage": {"lr": 0.5, "optimizer": "momentum", "num_updates": 4},
        "Pooled": {"lr": 0.2, "optimizer": "adam"},
    }
    monkeypatch.setattr(module, "tuned", lambda dataset: found if dataset == "tiny" else {})
    settings = strategies(dataset_of(FLAT, 4))
    average = {"lr": 0.5, "optimizer": "momentum", "num_updates": 4, "schedule": "constant"}
    assert settings["FedAverage"] == average
    assert settings["FedProx"] == average | {"mu": 5.0, "lr": 0.03}
    # What was not tuned trains as FedAverage does, where the rule allows its optimizer.
    assert settings["FedExP"] == average
    assert settings["FedNova"] == {"lr": 0.1, "optimizer": "sgd", "num_updates": 10, "schedule": "constant"}
    assert baseline("tiny") == {"lr": 0.2, "optimizer": "adam", "schedule": "constant"}
    assert baseline("other") == {"lr": None, "optimizer": "own", "schedule": "constant"}


def test_shipped_hyper_parameters_are_some_of_their_methods():
    for dataset in known_datasets():
        for method, settings in tuned(dataset).items():
            known = {"lr", "optimizer", "schedule"} if method == "Pooled" else set(known_settings(method))
            assert set(settings) <= known, (dataset, method)
            assert settings.get("optimizer", "sgd") in OPTIMIZERS
            assert settings.get("lr", 1) is None or settings.get("lr", 1) > 0
    assert tuned("fed_nothing") == {}


def test_names_of_settings():
    assert known_settings("FedProx") == ["lr", "optimizer", "num_updates", "schedule", "mu", "weights"]
    assert known_settings(FINE_TUNING)[-1] == "fine_tune"
    assert set(PERSONAL) <= {*AGGREGATORS, FINE_TUNING}
