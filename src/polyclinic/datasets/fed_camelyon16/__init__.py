"""Fed-Camelyon16: metastases in 399 slides of lymph nodes of two Dutch hospitals, each slide a bag of tiles.

README.md in this folder says what the data are and what was decided; the names are those of
`polyclinic.datasets.federated_dataset`.
"""

from torch.optim import Adam as Optimizer

from polyclinic.datasets.fed_camelyon16.dataset import Camelyon16Raw, FedCamelyon16, collate_fn
from polyclinic.datasets.fed_camelyon16.loss import BaselineLoss
from polyclinic.datasets.fed_camelyon16.made_up import mock
from polyclinic.datasets.fed_camelyon16.metric import METRIC, metric
from polyclinic.datasets.fed_camelyon16.model import Baseline
from polyclinic.datasets.fed_camelyon16.prepare import ensure_prepared, prepare
from polyclinic.datasets.fed_camelyon16.slides import CENTERS
from polyclinic.datasets.fed_camelyon16.source import CARD, download
from polyclinic.datasets.federated_dataset import rounds_for

NUM_CLIENTS = len(CENTERS)
BATCH_SIZE = 16
LR = 0.001
NUM_EPOCHS_POOLED = 45

FedClass = FedCamelyon16


def get_nb_max_rounds(num_updates: int, batch_size: int = BATCH_SIZE, *, flamby_compatible: bool = True) -> int:  # noqa: ARG001
    """Rounds of ``num_updates`` steps, see `rounds_for`; 3 rounds of 100."""
    return rounds_for(num_updates, batch_size, train_samples=270, num_clients=NUM_CLIENTS, epochs=NUM_EPOCHS_POOLED)


__all__ = [
    "BATCH_SIZE",
    "CARD",
    "CENTERS",
    "LR",
    "METRIC",
    "NUM_CLIENTS",
    "NUM_EPOCHS_POOLED",
    "Baseline",
    "BaselineLoss",
    "Camelyon16Raw",
    "FedCamelyon16",
    "FedClass",
    "Optimizer",
    "collate_fn",
    "download",
    "ensure_prepared",
    "get_nb_max_rounds",
    "metric",
    "mock",
    "prepare",
]
