"""Datasets of other makers. The imitation does what FLamby's modules do; it is written anew, none of it is theirs."""

from __future__ import annotations

import sys
import textwrap
import threading

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from polyclinic import Experiment, ProcessFederation
from polyclinic.datasets.baseline_plan import BaselinePlan
from polyclinic.datasets.describe import describe
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.datasets.keyboard import nobody_at_the_keyboard
from polyclinic.errors import DatasetError, RoundFailed
from polyclinic.federation.in_process import InProcessFederation

INIT = """
from imitation_suite.datasets.fed_moles.common import (
    BATCH_SIZE, LR, NUM_CLIENTS, NUM_EPOCHS_POOLED, FedClass, Optimizer, get_nb_max_rounds,
)
from imitation_suite.datasets.fed_moles.dataset import FedMoles, MolesRaw
from imitation_suite.datasets.fed_moles.model import Baseline, BaselineLoss, metric
"""

COMMON = """
import torch
from imitation_suite.datasets.fed_moles.dataset import FedMoles

NUM_CLIENTS = 2
BATCH_SIZE = 4
NUM_EPOCHS_POOLED = 10
LR = 0.05
Optimizer = torch.optim.Adam
FedClass = FedMoles


def get_nb_max_rounds(num_updates, batch_size=BATCH_SIZE):
    return (24 // NUM_CLIENTS // batch_size) * NUM_EPOCHS_POOLED // num_updates
"""

DATASET = """
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

HERE = Path(__file__).parent / "dataset_creation_scripts"


def accept(link):
    print("Fed-Moles is under a licence")
    agreed = HERE / "license_agreement_fed_moles"
    while not agreed.exists():
        answer = input("Do you accept the terms at %s? (y/n) " % link)
        if answer == "y":
            agreed.touch()
        elif answer == "n":
            exit()


def location():
    pairs = (line.split(": ", 1) for line in (HERE / "dataset_location.yaml").read_text().splitlines())
    known = dict(pairs)
    if known["preprocessing_complete"] != "true":
        raise ValueError("The preprocessing of fed_moles is not complete")
    return known["dataset_path"]


class MolesRaw(Dataset):
    def __init__(self, X_dtype=torch.float32, y_dtype=torch.float32, debug=False, data_path=None):
        accept("https://example.org/terms")
        table = np.load(Path(data_path or location()) / "moles.npy")
        self.features = torch.as_tensor(table[:, :3], dtype=X_dtype)
        self.labels = torch.as_tensor(table[:, 3], dtype=y_dtype)
        self.centers = table[:, 4].astype(int).tolist()
        self.sets = ["train" if value else "test" for value in table[:, 5]]

    def __len__(self):
        return len(self.features)

    def __getitem__(self, idx):
        return self.features[idx], self.labels[idx : idx + 1]


class FedMoles(MolesRaw):
    def __init__(self, center=0, train=True, pooled=False, X_dtype=torch.float32, y_dtype=torch.float32,
                 debug=False, data_path=None):
        super().__init__(X_dtype, y_dtype, debug, data_path)
        assert center in range(2)
        wanted = "train" if train else "test"
        rows = [k for k, s in enumerate(self.sets) if s == wanted and (pooled or self.centers[k] == center)]
        self.features, self.labels = self.features[rows], self.labels[rows]
"""

MODEL = """
import numpy as np
import torch
from torch.nn.modules.loss import _Loss


class Baseline(torch.nn.Module):
    def __init__(self, input_dim=3, output_dim=1):
        super(Baseline, self).__init__()
        self.linear = torch.nn.Linear(input_dim, output_dim)

    def forward(self, x):
        return torch.sigmoid(self.linear(x))


class BaselineLoss(_Loss):
    def __init__(self, reduction="mean"):
        super(BaselineLoss, self).__init__(reduction=reduction)
        self.bce = torch.nn.BCELoss()

    def forward(self, input, target):
        return self.bce(input, target)


def metric(y_true, y_pred):
    return float(((np.asarray(y_pred) > 0.5) == np.asarray(y_true)).mean())
"""

NAME = "imitation_suite.datasets.fed_moles"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The installed package, its data in another place, and its licence not accepted yet."""
    root = tmp_path / "site"
    folder = root / "imitation_suite" / "datasets" / "fed_moles"
    scripts = folder / "dataset_creation_scripts"
    scripts.mkdir(parents=True)
    for path in (root / "imitation_suite", folder.parent):
        (path / "__init__.py").touch()
    for name, text in (("__init__", INIT), ("common", COMMON), ("dataset", DATASET), ("model", MODEL)):
        (folder / f"{name}.py").write_text(textwrap.dedent(text))
    rng = np.random.default_rng(0)
    x = rng.normal(size=(36, 3))
    table = np.column_stack([x, x[:, 0] > 0, np.arange(36) % 2, np.arange(36) % 3 > 0])
    (tmp_path / "downloaded").mkdir()
    np.save(tmp_path / "downloaded" / "moles.npy", table)
    (scripts / "dataset_location.yaml").write_text(
        f"dataset_path: {tmp_path / 'downloaded'}\ndownload_complete: true\npreprocessing_complete: true\n"
    )
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.setenv("PYTHONPATH", str(root))  # for a process of its own
    yield scripts
    for name in [name for name in sys.modules if name.startswith("imitation_suite")]:
        del sys.modules[name]


def accept_licence(package):
    (package / "license_agreement_fed_moles").touch()


def command(*words):
    from polyclinic.cli import app

    return CliRunner(env={"COLUMNS": "200"}).invoke(app, [str(word) for word in words], input="y\n")


def test_it_is_registered_searched_trained_and_evaluated(package, tmp_path):
    accept_licence(package)
    place = tmp_path / "place"
    for node, center in (("lyon", 0), ("basel", 1)):
        assert command("node", "create", node, "--at", place).exit_code == 0
        added = command(
            *("node", "add-dataset", node, "federated", "--module", NAME, "--center", center),
            *("--tags", "moles", "--name", f"Moles of {node}", "--at", place),
        )
        assert added.exit_code == 0, (added.output, added.exception)
    shown = " ".join(command("federation", "show", "--at", place).output.split())
    assert "lyon │ Moles of lyon │ moles │ 12 │ 6" in shown
    experiment = Experiment(
        BaselinePlan,
        tags=["moles"],
        model_args={"dataset": NAME},
        training_args={"batch_size": 4, "num_updates": 30},
        round_limit=2,
        federation=InProcessFederation.at(place),
        folder=tmp_path / "run",
        observers=(),
    )
    experiment.run()
    text = str(experiment.evaluate())
    # Its metric is a function of its own, so the value of all is the mean of the nodes' ones, marked as near.
    assert "lyon" in text
    assert "pooled │ ≈" in text


def experiment_with(federation, folder):
    return Experiment(
        BaselinePlan,
        tags=["fed_moles"],
        model_args={"dataset": NAME},
        training_args={"batch_size": 4, "num_updates": 2},
        round_limit=1,
        federation=federation,
        folder=folder,
        observers=(),
    )


def test_it_works_in_worker_processes_and_gives_the_same_model(package, tmp_path):
    accept_licence(package)
    place = tmp_path / "place"
    assert command("federation", "create", NAME, "--at", place).exit_code == 0
    models, scores = [], []
    for name, kind in (("here", InProcessFederation.at), ("workers", ProcessFederation)):
        federation = kind(place)
        experiment = experiment_with(federation, tmp_path / name)
        experiment.run()
        models.append(experiment.model())
        scores.append(experiment.evaluate().nodes)
        federation.close()
    here, workers = (model.state_dict() for model in models)
    assert all(torch.equal(here[key], workers[key]) for key in here)
    assert scores[0] == scores[1]
    assert sorted(scores[0]) == ["center 0", "center 1"]


def test_a_licence_prompt_in_a_worker_process_is_an_error_that_says_what_to_do(package, tmp_path):
    accept_licence(package)
    place = tmp_path / "place"
    assert command("federation", "create", NAME, "--at", place).exit_code == 0
    (package / "license_agreement_fed_moles").unlink()  # as if it were another machine's Python
    federation = ProcessFederation(place, workers=2)
    with pytest.raises(RoundFailed, match="asks a question at the keyboard, where nobody sits at a node"):
        experiment_with(federation, tmp_path / "run").run()
    accept_licence(package)
    experiment_with(federation, tmp_path / "again").run()
    federation.close()


def test_a_node_is_made_of_each_center(package, tmp_path):
    accept_licence(package)
    created = command("federation", "create", NAME, "--at", tmp_path / "place")
    assert created.exit_code == 0, (created.output, created.exception)
    assert "tags=['fed_moles']" in created.output
    assert {path.name for path in (tmp_path / "place").iterdir()} == {"center-0", "center-1"}


def test_a_licence_prompt_does_not_block_but_says_what_to_do(package, tmp_path):
    # An answer waits on standard input, and must not be taken: nobody read the licence.
    result = command("federation", "create", NAME, "--at", tmp_path / "place")
    assert isinstance(result.exception, DatasetError)
    text = str(result.exception)
    assert f"{NAME} asks a question at the keyboard, where nobody sits at a node" in text
    assert f'python -c "import {NAME} as m; m.FedClass()"' in text
    assert not (package / "license_agreement_fed_moles").exists()
    assert not list((tmp_path / "place").glob("*"))


def test_the_command_that_the_error_names_is_what_mends_it(package):
    import subprocess

    line = f"import {NAME} as m; m.FedClass()"
    done = subprocess.run([sys.executable, "-c", line], input="y\n", text=True, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert len(FederatedDataset.load(NAME).build(0)) == 12


def test_a_module_that_asks_or_exits_at_import_does_not_end_the_node(tmp_path, monkeypatch):
    (tmp_path / "fed_asking_for_test.py").write_text("input('Accept? ')\n")
    (tmp_path / "fed_leaving_for_test.py").write_text("raise SystemExit('not accepted')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DatasetError, match="fed_asking_for_test asks a question at the keyboard"):
        FederatedDataset.load("fed_asking_for_test")
    with pytest.raises(DatasetError, match="cannot be imported: SystemExit: not accepted"):
        FederatedDataset.load("fed_leaving_for_test")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            ("preprocessing_complete: true", "preprocessing_complete: false"),
            "preprocessing of fed_moles is not complete",
        ),
        (("downloaded", "nowhere"), r"FileNotFoundError: .*nowhere"),
    ],
)
def test_what_its_own_configuration_lacks_is_told(package, change, why):
    accept_licence(package)
    path = package / "dataset_location.yaml"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(DatasetError, match=why):
        FederatedDataset.load(NAME).build(0)


def test_it_is_described_and_split_like_ours(package, tmp_path):
    accept_licence(package)
    found = describe(FederatedDataset.load(NAME))
    assert found.sizes.tolist() == [[12, 6], [12, 6]]
    made = command("dataset", "split", NAME, "--into", 3, "--to", tmp_path / "three")
    assert made.exit_code == 0, (made.output, made.exception)
    assert [len(FederatedDataset.load(str(tmp_path / "three")).build(k)) for k in range(3)] == [8, 8, 8]


def test_standard_input_is_given_back_also_after_several_threads():
    before = sys.stdin
    inside, go = threading.Barrier(3), threading.Event()
    texts = []

    def ask(name):
        try:
            with nobody_at_the_keyboard(name):
                inside.wait()
                go.wait()
                input()
        except DatasetError as err:
            texts.append(err.what.split()[0])

    threads = [threading.Thread(target=ask, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    inside.wait()
    assert sys.stdin is not before
    go.set()
    for thread in threads:
        thread.join()
    assert sys.stdin is before
    assert sorted(texts) == ["one", "two"]
