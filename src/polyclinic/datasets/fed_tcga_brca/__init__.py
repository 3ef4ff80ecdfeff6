"""Fed-TCGA-BRCA: survival of breast cancer patients of six regions, 39 clinical features.

README.md in this folder says what the data are and what was decided; the names are those of
`polyclinic.datasets.federated_dataset`.
"""

from torch.optim import Adam as Optimizer

from polyclinic.datasets.fed_tcga_brca.dataset import (
    CENTERS,
    FEATURES,
    NUM_CLIENTS,
    FedTcgaBrca,
    TcgaBrcaRaw,
)
from polyclinic.datasets.fed_tcga_brca.loss import BaselineLoss
from polyclinic.datasets.fed_tcga_brca.metric import METRIC, metric
from polyclinic.datasets.fed_tcga_brca.model import Baseline
from polyclinic.datasets.fed_tcga_brca.prepare import CARD, download, ensure_prepared, mock, prepare
from polyclinic.datasets.federated_dataset import rounds_for

BATCH_SIZE = 8
LR = 0.1
NUM_EPOCHS_POOLED = 30

FedClass = FedTcgaBrca


def get_nb_max_rounds(num_updates: int, batch_size: int = BATCH_SIZE, *, flamby_compatible: bool = True) -> int:
    """Rounds of ``num_updates`` steps, see `rounds_for`; FLamby's N is the true one here (866), so both are equal."""
    del flamby_compatible
    return rounds_for(num_updates, batch_size, train_samples=866, num_clients=NUM_CLIENTS, epochs=NUM_EPOCHS_POOLED)


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
    "FedTcgaBrca",
    "Optimizer",
    "TcgaBrcaRaw",
    "download",
    "ensure_prepared",
    "get_nb_max_rounds",
    "metric",
    "mock",
    "prepare",
]
