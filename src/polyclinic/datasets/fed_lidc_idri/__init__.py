"""Fed-LIDC-IDRI: lung nodules in CT, scanners of four manufacturers as the centers.

README.md in this folder says what the data are and what was decided; the names are those of
`polyclinic.datasets.federated_dataset`.
"""

from torch.optim import Adam as Optimizer

from polyclinic.datasets.fed_lidc_idri.dataset import FedLidcIdri, LidcIdriRaw, collate_fn
from polyclinic.datasets.fed_lidc_idri.loss import BaselineLoss
from polyclinic.datasets.fed_lidc_idri.metric import METRIC, evaluate_dice_on_tests_by_chunks, metric
from polyclinic.datasets.fed_lidc_idri.mock import mock
from polyclinic.datasets.fed_lidc_idri.model import Baseline
from polyclinic.datasets.fed_lidc_idri.prepare import ensure_prepared, prepare
from polyclinic.datasets.fed_lidc_idri.series import CENTERS
from polyclinic.datasets.fed_lidc_idri.source import CARD, download
from polyclinic.datasets.federated_dataset import rounds_for

NUM_CLIENTS = len(CENTERS)
BATCH_SIZE = 1
LR = 0.01
NUM_EPOCHS_POOLED = 100
SEEDS = (42,)

FedClass = FedLidcIdri


def get_nb_max_rounds(num_updates: int, batch_size: int = BATCH_SIZE, *, flamby_compatible: bool = True) -> int:
    """Rounds of ``num_updates`` steps, see `rounds_for`.

    The plain call gives FLamby's number, which rests on N = 805 training scans; with
    ``flamby_compatible=False`` N is the true 808.
    """
    train_samples = 805 if flamby_compatible else 808
    return rounds_for(
        num_updates, batch_size, train_samples=train_samples, num_clients=NUM_CLIENTS, epochs=NUM_EPOCHS_POOLED
    )


__all__ = [
    "BATCH_SIZE",
    "CARD",
    "CENTERS",
    "LR",
    "METRIC",
    "NUM_CLIENTS",
    "NUM_EPOCHS_POOLED",
    "SEEDS",
    "Baseline",
    "BaselineLoss",
    "FedClass",
    "FedLidcIdri",
    "LidcIdriRaw",
    "Optimizer",
    "collate_fn",
    "download",
    "ensure_prepared",
    "evaluate_dice_on_tests_by_chunks",
    "get_nb_max_rounds",
    "metric",
    "mock",
    "prepare",
]
