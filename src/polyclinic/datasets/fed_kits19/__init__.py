"""Fed-KiTS19: kidneys and their tumours in CT of six hospitals of the KiTS19 challenge.

README.md in this folder says what the data are and what was decided; the names are those of
`polyclinic.datasets.federated_dataset`.
"""

from torch.optim import Adam as Optimizer

from polyclinic.datasets.fed_kits19.cases import CENTERS
from polyclinic.datasets.fed_kits19.dataset import FedKits19, Kits19Raw, collate_fn
from polyclinic.datasets.fed_kits19.inference import evaluate_dice_on_tests, sliding_window_predict
from polyclinic.datasets.fed_kits19.loss import BaselineLoss, softmax_helper
from polyclinic.datasets.fed_kits19.metric import METRIC, flamby_metric, metric
from polyclinic.datasets.fed_kits19.mock import mock
from polyclinic.datasets.fed_kits19.model import Baseline
from polyclinic.datasets.fed_kits19.prepare import ensure_prepared, prepare
from polyclinic.datasets.fed_kits19.source import CARD, download
from polyclinic.datasets.federated_dataset import rounds_for

NUM_CLIENTS = len(CENTERS)
BATCH_SIZE = 2
LR = 0.0003
NUM_EPOCHS_POOLED = 500
SEEDS = (0,)

FedClass = FedKits19


def get_nb_max_rounds(num_updates: int, batch_size: int = BATCH_SIZE, *, flamby_compatible: bool = True) -> int:
    """Rounds of ``num_updates`` steps, see `rounds_for`.

    The plain call gives FLamby's number, which rests on N = 72 training cases; with ``flamby_compatible=False`` N is
    the true 74.
    """
    train_samples = 72 if flamby_compatible else 74
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
    "FedKits19",
    "Kits19Raw",
    "Optimizer",
    "collate_fn",
    "download",
    "ensure_prepared",
    "evaluate_dice_on_tests",
    "flamby_metric",
    "get_nb_max_rounds",
    "metric",
    "mock",
    "prepare",
    "sliding_window_predict",
    "softmax_helper",
]
