"""Fed-Synthetic: generated classes or regression, with centers that are as unequal as you like.

README.md in this folder says what the data are and what was decided; the names are those of
`polyclinic.datasets.federated_dataset`.
"""

from torch.optim import Adam as Optimizer

from polyclinic.datasets.fed_synthetic.dataset import CENTERS, FedSynthetic, SyntheticRaw, centers_at
from polyclinic.datasets.fed_synthetic.generator import NUM_CLIENTS, Options, synthetic_data
from polyclinic.datasets.fed_synthetic.loss import BaselineLoss
from polyclinic.datasets.fed_synthetic.metric import METRIC, metric
from polyclinic.datasets.fed_synthetic.model import Baseline
from polyclinic.datasets.fed_synthetic.prepare import CARD, download, ensure_prepared, generate, mock, prepare
from polyclinic.datasets.federated_dataset import rounds_for

BATCH_SIZE = 8
LR = 0.005
NUM_EPOCHS_POOLED = 10

FedClass = FedSynthetic


def get_nb_max_rounds(num_updates: int, batch_size: int = BATCH_SIZE, *, flamby_compatible: bool = True) -> int:
    """Rounds of ``num_updates`` steps for the default set, see `rounds_for`.

    The plain call gives FLamby's number, whose N are all 1000 samples, the test part among them; with
    ``flamby_compatible=False`` N are the 660 training samples.
    """
    train_samples = 1000 if flamby_compatible else 660
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
    "Baseline",
    "BaselineLoss",
    "FedClass",
    "FedSynthetic",
    "Optimizer",
    "Options",
    "SyntheticRaw",
    "centers_at",
    "download",
    "ensure_prepared",
    "generate",
    "get_nb_max_rounds",
    "metric",
    "mock",
    "prepare",
    "synthetic_data",
]
