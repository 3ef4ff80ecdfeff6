import sys

import pytest

from polyclinic.datasets.artificial import make_split
from polyclinic.datasets.federated_dataset import FederatedDataset
from polyclinic.errors import ConfigError, DatasetError
from polyclinic.node.dataset_kinds import get_kind

FEDERATED = get_kind("federated")
HEART_COUNTS = [(199, 104), (172, 89), (30, 16), (85, 45)]

THEIR_MODULE = """
from pathlib import Path
import torch
from torch.utils.data import Dataset

class FedClass(Dataset):
    def __init__(self, center=0, train=True, pooled=False, data_path=None, bad=False):
        text = (Path(data_path) / f"{center}.txt").read_text()
        self.n = int(text) if train else 2
        self.bad = bad
    def __len__(self):
        return self.n
    def __getitem__(self, i):
        return torch.full((4,), float("nan") if self.bad else 1.0), torch.tensor([0.0])

Baseline = BaselineLoss = Optimizer = object
metric = get_nb_max_rounds = print
def collate_fn(rows):
    return rows
BATCH_SIZE, LR, NUM_CLIENTS, NUM_EPOCHS_POOLED = 4, 0.1, 2, 3
"""


@pytest.fixture
def theirs(tmp_path, monkeypatch):
    """A module with the names of the contract, such as anyone may have written, and a folder of its data."""
    code, data = tmp_path / "code", tmp_path / "data"
    code.mkdir()
    data.mkdir()
    (code / "fed_of_theirs.py").write_text(THEIR_MODULE)
    (data / "1.txt").write_text("5")
    monkeypatch.syspath_prepend(code)
    monkeypatch.delitem(sys.modules, "fed_of_theirs", raising=False)
    return data


@pytest.mark.parametrize("center", range(4))
def test_fed_heart_disease_needs_no_path(center):
    given = FEDERATED.Params(module="fed_heart_disease", center=center)
    found = FEDERATED.inspect(given)
    assert (found.num_train, found.num_test) == HEART_COUNTS[center]
    assert (found.shape, len(found.features)) == ((13,), 13)
    assert len(FEDERATED.load(given, train=False)) == HEART_COUNTS[center][1]
    assert FEDERATED.changed(given, found.fingerprint) is None
    assert FEDERATED.paths(given) == ()
    assert FEDERATED.module(given).__name__ == "polyclinic.datasets.fed_heart_disease"


def test_a_module_that_others_wrote(theirs):
    given = FEDERATED.Params(module="fed_of_theirs", center=1, path=theirs)
    found = FEDERATED.inspect(given)
    assert (found.num_train, found.num_test, found.shape, found.features) == (5, 2, (4,), ())
    assert FEDERATED.module(given).collate_fn([1]) == [1]
    assert FEDERATED.paths(given) == (theirs,)


def test_changed_and_vanished(theirs):
    given = FEDERATED.Params(module="fed_of_theirs", center=1, path=theirs)
    found = FEDERATED.inspect(given)
    assert FEDERATED.changed(given, found.fingerprint) is None
    center_0 = FEDERATED.Params(module="fed_of_theirs", center=0, path=theirs)
    assert "settings" in FEDERATED.changed(center_0, found.fingerprint)
    (theirs / "1.txt").write_text("55")
    assert "changed" in FEDERATED.changed(given, found.fingerprint)
    theirs.rename(theirs.with_name("elsewhere"))
    assert "vanished" in FEDERATED.changed(given, found.fingerprint)
    with pytest.raises(DatasetError, match=r"there is no .*data"):
        FEDERATED.inspect(given)


@pytest.mark.parametrize("with_path", [False, True])
def test_artificial_centers_that_changed_are_noticed_at_a_glance(theirs, tmp_path, monkeypatch, with_path):
    (theirs / "0.txt").write_text("5")
    split = make_split(FederatedDataset.load("fed_of_theirs"), 2, method="linear", data_path=theirs)
    stored = split.save(tmp_path / "two")
    monkeypatch.chdir(tmp_path)
    given = FEDERATED.Params(module="two", center=1, path=theirs if with_path else None)
    assert given.module == str(stored)  # a node may be opened from anywhere
    found = FEDERATED.inspect(given)
    assert (found.num_train, found.num_test) == (6, 2)  # in proportion 1 to 2, see deal_out
    assert FEDERATED.paths(given) == ((stored, theirs) if with_path else (stored,))
    for glance in (False, True):
        assert FEDERATED.changed(given, found.fingerprint, glance=glance) is None
    before = stored.read_text()
    stored.write_text(before.replace('"0": [0, 1, 3]', '"0": [0, 1]'))
    assert stored.read_text() != before
    for glance in (False, True):
        assert "artificial centers" in FEDERATED.changed(given, found.fingerprint, glance=glance)
    stored.unlink()
    assert "vanished" in FEDERATED.changed(given, found.fingerprint, glance=True)
    stored.write_text(before)
    assert FEDERATED.changed(given, found.fingerprint) is None


def test_nan_is_refused_at_registration(theirs):
    given = FEDERATED.Params(module="fed_of_theirs", center=1, path=theirs, options={"bad": True})
    with pytest.raises(DatasetError, match="nan or infinite values in the input 1 of 5 of 5 rows"):
        FEDERATED.inspect(given)


@pytest.mark.parametrize(
    ("settings", "error", "what"),
    [
        ({"module": "fed_heart_diseas", "center": 0}, DatasetError, "fed_heart_diseas"),
        ({"module": "fed_heart_disease", "center": 4}, ConfigError, "center 4"),
        ({"module": "fed_heart_disease", "center": 0, "options": {"x": 1}}, ConfigError, "'x'"),
        ({"module": "json", "center": 0}, DatasetError, "no federated dataset"),
    ],
)
def test_what_does_not_exist(settings, error, what):
    with pytest.raises(error, match=what):
        FEDERATED.inspect(FEDERATED.Params(**settings))
