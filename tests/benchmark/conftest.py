"""Results files with known figures."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from polyclinic.benchmark.clients import clients_of
from polyclinic.benchmark.results import ResultRow, ResultsFile, cell_id

NOT_TESTED = {"": math.nan}


def make_cell(
    method,
    seed,
    values=NOT_TESTED,
    *,
    rounds=(1, 2),
    bytes_a_round=1000,
    status="done",
    metric="accuracy",
    **fields,
):
    """A run's rows. ``values``: the result by test set; at earlier rounds of its curve it was half of that."""
    shared = {
        "protocol": "flamby",
        "dataset": "fed_heart_disease",
        "method": method,
        "seed": seed,
        "settings": "{}",
        "configuration": '{"num_updates": 100}',
        "status": status,
        "metric": metric,
        "detail": "",
        "num_samples": 50,
        "seconds": 1.5,
        "training_seconds": 1.0,
        "peak_memory": 2_000_000,
        "versions": '{"python": "3.12.0"}',
        "finished": "2026-01-02T03:04:05.000+00:00",
    } | fields
    shared["cell"] = cell_id(
        {name: shared[name] for name in ("protocol", "dataset", "method", "seed", "settings", "configuration")}
    )
    figures = [
        {"test": test, "value": value if at == rounds[-1] else value / 2, "round": at, "final": at == rounds[-1]}
        for at in rounds
        for test, value in values.items()
    ]
    given = [shared | figure | {"rows": len(figures), "bytes": bytes_a_round * figure["round"]} for figure in figures]
    return [ResultRow(**{name: row[name] for name in ResultRow.model_fields}) for row in given]


@pytest.fixture
def cell() -> Callable[..., list[ResultRow]]:
    return make_cell


@pytest.fixture
def write(tmp_path) -> Callable[..., Path]:
    """Appends cells to a results file."""

    def append(*cells, name="results.csv"):
        file = ResultsFile(tmp_path / name)
        for rows in cells:
            file.append(rows)
        return file.path

    return append


# Over five seeds: mean 0.74, variance 0.001; and Pooled less than it by 0.02, 0.02, 0.02, 0.02, 0.07.
FED = (0.70, 0.72, 0.74, 0.76, 0.78)
POOLED = (0.68, 0.70, 0.72, 0.74, 0.71)


@pytest.fixture(scope="session")
def full_file(tmp_path_factory) -> Path:
    """Every kind of method and status at two hospitals, and a second dataset. To be read only."""
    cells = []
    for seed, (fed, pooled) in enumerate(zip(FED, POOLED, strict=True), start=42):
        both = {"Cleveland": fed, "Hungary": fed - 0.1, "mean": fed - 0.05, "pooled": fed}
        cells.append(make_cell("FedAverage", seed, both, settings='{"lr": 0.1}'))
        cells.append(make_cell("Pooled", seed, dict.fromkeys(both, pooled), rounds=(1,), bytes_a_round=0))
        cells.append(make_cell("Local Hungary", seed, dict.fromkeys(both, 0.5), rounds=(1,), bytes_a_round=0))
        cells.append(make_cell("Local Cleveland", seed, dict.fromkeys(both, 0.6), rounds=(1,), bytes_a_round=0))
        if seed < 44:
            cells.append(make_cell("FedYogi", seed, both, bytes_a_round=100_000))
        else:
            cells.append(make_cell("FedYogi", seed, status="diverged", metric="", detail="the loss <is> not finite"))
        cells.append(make_cell("FedProx", seed, status="failed", metric="", detail="no space left", rounds=(1,)))
    cells.append(make_cell("Zeta & Co", 42, both, settings=json.dumps({"mu": "<b>"})))
    cells.append(make_cell("FedAverage", 42, {"RUMC": 0.9, "mean": 0.9}, dataset="fed_camelyon16", metric="roc_auc"))
    file = ResultsFile(tmp_path_factory.mktemp("full") / "results.csv")
    for rows in cells:
        file.append(rows)
    return file.path


@pytest.fixture
def full(full_file, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copy(full_file, tmp_path))


# ---- a dataset to run cells on

TOY = """
import numpy as np
import torch
from torch.utils.data import TensorDataset

NUM_CLIENTS = 3
CENTERS = ("Ant", "Bee", "Cat")
BATCH_SIZE = 4
NUM_EPOCHS_POOLED = 3
LR = 0.02
Optimizer = torch.optim.SGD
SIZES = {True: (14, 20, 10), False: (6, 5, 4)}
built = []  # (center, train, pooled, flamby_compatible)
unreadable = []  # parts whose building is an error: True for training, False for test


def get_nb_max_rounds(num_updates, batch_size=BATCH_SIZE):
    return max(1, 9 // num_updates)


class FedClass(TensorDataset):
    def __init__(self, center=0, train=True, pooled=False, flamby_compatible=False):
        built.append((center, train, pooled, flamby_compatible))
        if train in unreadable:
            raise OSError("nobody may read this")
        parts = [_part(k, train) for k in range(NUM_CLIENTS) if pooled or k == center]
        x, y = (torch.cat(columns) for columns in zip(*parts))
        super().__init__(x * (0.5 if flamby_compatible else 1.0), y)


def _part(center, train):
    rng = np.random.default_rng(10 * center + train)
    x = rng.normal(size=(SIZES[train][center], 3)) + 0.3 * center
    y = x @ [[1.0], [-2.0], [0.5]] + 0.3 * rng.normal(size=(len(x), 1)) + 0.5 * center
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)


class Baseline(torch.nn.Sequential):
    def __init__(self):
        super().__init__(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.2), torch.nn.Linear(4, 1))


BaselineLoss = torch.nn.MSELoss


def metric(y_true, y_pred):  # no rounding to classes: it tells models apart
    return float(np.mean((np.asarray(y_true) - np.asarray(y_pred)) ** 2))
"""


@pytest.fixture
def toy(monkeypatch) -> ModuleType:
    """A federated dataset of three centers of 14, 20 and 10 rows; its model has batch normalisation and dropout."""
    module = ModuleType("toy")
    exec(TOY, module.__dict__)
    monkeypatch.setitem(sys.modules, "toy", module)
    clients_of.cache_clear()
    yield module
    clients_of.cache_clear()
