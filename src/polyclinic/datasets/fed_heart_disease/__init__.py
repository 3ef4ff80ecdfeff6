"""Fed-Heart-Disease: is there heart disease? 740 patients of four hospitals, 13 features; ships in the package.

README.md in this folder says what the data are and what was decided; the names are those of
`polyclinic.datasets.federated_dataset`.
"""

from torch.optim import Adam as Optimizer

from polyclinic.datasets.fed_heart_disease.dataset import (
    CENTERS,
    FEATURES,
    NUM_CLIENTS,
    FedHeartDisease,
    HeartDiseaseRaw,
)
from polyclinic.datasets.fed_heart_disease.loss import BaselineLoss
from polyclinic.datasets.fed_heart_disease.metric import METRIC, metric
from polyclinic.datasets.fed_heart_disease.model import Baseline
from polyclinic.datasets.fed_heart_disease.prepare import CARD, download, ensure_prepared, mock, prepare
from polyclinic.datasets.federated_dataset import rounds_for

BATCH_SIZE = 4
LR = 0.001
NUM_EPOCHS_POOLED = 50

FedClass = FedHeartDisease


def get_nb_max_rounds(num_updates: int, batch_size: int = BATCH_SIZE, *, flamby_compatible: bool = True) -> int:
    """Rounds of ``num_updates`` steps, see `rounds_for`; FLamby's N is the true one here (486), so both are equal."""
    del flamby_compatible
    return rounds_for(num_updates, batch_size, train_samples=486, num_clients=NUM_CLIENTS, epochs=NUM_EPOCHS_POOLED)


__all__ = [
    "BATCH_SIZE",
    "CARD",
    "CENTERS",
    "FEATURES",
    "LR",
    "METRIC",
    "NUM_CLIENTS",
    "NUM_EPOCHS_POOLED",
    "Baseline",
    "BaselineLoss",
    "FedClass",
    "FedHeartDisease",
    "HeartDiseaseRaw",
    "Optimizer",
    "download",
    "ensure_prepared",
    "get_nb_max_rounds",
    "metric",
    "mock",
    "prepare",
]
