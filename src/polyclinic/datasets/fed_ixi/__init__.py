"""Fed-IXI: brain segmentation in T1 images of the three London hospitals of the IXI study.

README.md in this folder says what the data are and what was decided; the names are those of
`polyclinic.datasets.federated_dataset`.
"""

from torch.optim import AdamW as Optimizer

from polyclinic.datasets.fed_ixi.dataset import FedIXITiny, IXITinyRaw
from polyclinic.datasets.fed_ixi.loss import BaselineLoss
from polyclinic.datasets.fed_ixi.metric import METRIC, metric
from polyclinic.datasets.fed_ixi.model import Baseline
from polyclinic.datasets.fed_ixi.prepare import ensure_prepared, prepare
from polyclinic.datasets.fed_ixi.raw import mock
from polyclinic.datasets.fed_ixi.source import CARD, download
from polyclinic.datasets.fed_ixi.subjects import CENTERS
from polyclinic.datasets.federated_dataset import rounds_for

NUM_CLIENTS = len(CENTERS)
BATCH_SIZE = 2
LR = 0.001
NUM_EPOCHS_POOLED = 10
SEEDS = (0, 10, 20, 30, 40)

FedClass = FedIXITiny


def get_nb_max_rounds(num_updates: int, batch_size: int = BATCH_SIZE, *, flamby_compatible: bool = True) -> int:
    """Rounds of ``num_updates`` steps, see `rounds_for`.

    The plain call gives FLamby's number, which rests on N = 450 training samples; with
    ``flamby_compatible=False`` N is the true 453.
    """
    train_samples = 450 if flamby_compatible else 453
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
    "FedIXITiny",
    "IXITinyRaw",
    "Optimizer",
    "download",
    "ensure_prepared",
    "get_nb_max_rounds",
    "metric",
    "mock",
    "prepare",
]
