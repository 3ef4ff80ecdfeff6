"""Fed-ISIC2019: eight diagnoses in dermoscopy images of six sources in Europe, Australia and the USA.

README.md in this folder says what the data are and what was decided; the names are those of
`polyclinic.datasets.federated_dataset`.
"""

from torch.optim import Adam as Optimizer

from polyclinic.datasets.fed_isic2019.dataset import FedIsic2019, Isic2019Raw
from polyclinic.datasets.fed_isic2019.loss import BaselineLoss
from polyclinic.datasets.fed_isic2019.metric import METRIC, metric
from polyclinic.datasets.fed_isic2019.mock import mock
from polyclinic.datasets.fed_isic2019.model import Baseline
from polyclinic.datasets.fed_isic2019.prepare import ensure_prepared, prepare
from polyclinic.datasets.fed_isic2019.published import CENTERS, CLASSES
from polyclinic.datasets.fed_isic2019.source import CARD, download
from polyclinic.datasets.fed_isic2019.transforms import Augmentation, CenterCrop
from polyclinic.datasets.federated_dataset import rounds_for

NUM_CLIENTS = len(CENTERS)
BATCH_SIZE = 64
LR = 0.0005
NUM_EPOCHS_POOLED = 20

FedClass = FedIsic2019


def get_nb_max_rounds(num_updates: int, batch_size: int = BATCH_SIZE, *, flamby_compatible: bool = True) -> int:
    """Rounds of ``num_updates`` steps, see `rounds_for`.

    The plain call gives FLamby's number, which rests on N = 18,413 training samples; with
    ``flamby_compatible=False`` N is the true 18,597.
    """
    train_samples = 18_413 if flamby_compatible else 18_597
    return rounds_for(
        num_updates, batch_size, train_samples=train_samples, num_clients=NUM_CLIENTS, epochs=NUM_EPOCHS_POOLED
    )


__all__ = [
    "BATCH_SIZE",
    "CARD",
    "CENTERS",
    "CLASSES",
    "LR",
    "METRIC",
    "NUM_CLIENTS",
    "NUM_EPOCHS_POOLED",
    "Augmentation",
    "Baseline",
    "BaselineLoss",
    "CenterCrop",
    "FedClass",
    "FedIsic2019",
    "Isic2019Raw",
    "Optimizer",
    "download",
    "ensure_prepared",
    "get_nb_max_rounds",
    "metric",
    "mock",
    "prepare",
]
