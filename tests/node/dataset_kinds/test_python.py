import sys

import pytest

from polyclinic.errors import DatasetError
from polyclinic.node.dataset_kinds import get_kind

PYTHON = get_kind("python")
SOURCE = """
import torch
from torch.utils.data import TensorDataset

def part(n):
    return TensorDataset(torch.ones(n, 2), torch.zeros(n, dtype=torch.int64))

def make(n=6, m=2):
    return part(n), part(m)

def one():
    return part(3)

def fails():
    raise KeyError("SECRET")

number = 3
"""


@pytest.fixture
def source(tmp_path):
    (tmp_path / "hospital.py").write_text(SOURCE)
    return tmp_path / "hospital.py"


def test_a_function_in_a_file(source):
    given = PYTHON.Params(function=f"{source}:make", arguments='{"n": 9}')
    found = PYTHON.inspect(given)
    assert (found.num_train, found.num_test, found.shape, found.target) == (9, 2, (2,), "int64 ()")
    assert any("--watch" in note for note in found.notes)
    assert len(PYTHON.load(given, train=True)) == 9
    assert len(PYTHON.load(given, train=False)) == 2
    assert PYTHON.paths(given) == (source,)
    assert PYTHON.module(given) is None


def test_a_function_in_a_module(source, monkeypatch):
    monkeypatch.syspath_prepend(source.parent)
    monkeypatch.delitem(sys.modules, "hospital", raising=False)
    given = PYTHON.Params(function="hospital:make")
    assert PYTHON.inspect(given).num_train == 6
    assert PYTHON.paths(given) == (source,)


def test_a_relative_file_is_found_from_anywhere(source, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(source.parent)
    given = PYTHON.Params(function="hospital.py:make")
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert PYTHON.inspect(given).num_train == 6


def test_changes_of_code_arguments_and_watched_data(source, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.bin").write_bytes(b"1")
    given = PYTHON.Params(function=f"{source}:make", watch=[data])
    found = PYTHON.inspect(given)
    assert PYTHON.changed(given, found.fingerprint) is None
    assert found.notes == ()
    other = PYTHON.Params(function=f"{source}:make", watch=[data], arguments={"n": 7})
    assert "settings" in PYTHON.changed(other, found.fingerprint)
    (data / "b.bin").write_bytes(b"2")
    assert "1 files" in PYTHON.changed(given, found.fingerprint)
    (data / "b.bin").unlink()
    source.write_text(SOURCE.replace("n=6", "n=60"))
    assert "code" in PYTHON.changed(given, found.fingerprint)
    assert PYTHON.inspect(given).num_train == 60  # the new text runs, not the one that was imported before
    source.unlink()
    assert "vanished" in PYTHON.changed(given, found.fingerprint)


def test_a_module_that_is_gone_has_vanished(source, monkeypatch):
    monkeypatch.syspath_prepend(source.parent)
    given = PYTHON.Params(function="hospital_of_long_ago:make")
    assert "vanished" in PYTHON.changed(given, "0.x.x.x")


@pytest.mark.parametrize(
    ("name", "arguments", "what", "to_do"),
    [
        ("mak", {}, "there is no function 'mak'", "'make'"),
        ("number", {}, "there is no function 'number'", "known"),
        ("one", {}, "returned TensorDataset, not two datasets", "(train, test)"),
        ("fails", {}, r":fails failed \(KeyError\)", "call it in Python"),
        ("make", {"k": 1}, r":make failed \(TypeError\)", "--arguments"),
        ("make", {"n": 0}, "train part has no rows", "read from"),
        ("make", {"m": 0}, "test part has no rows", "read from"),
    ],
)
def test_functions_that_do_not_do(source, name, arguments, what, to_do):
    with pytest.raises(DatasetError, match=what) as caught:
        PYTHON.inspect(PYTHON.Params(function=f"{source}:{name}", arguments=arguments))
    assert to_do in caught.value.to_do
    assert "SECRET" not in str(caught.value)


def test_files_that_cannot_be_imported(tmp_path):
    (tmp_path / "bad.py").write_text("import nowhere_to_be_found\n")
    for function, what in [
        (f"{tmp_path}/bad.py:make", "cannot be imported .*nowhere_to_be_found"),
        (f"{tmp_path}/none.py:make", "there is no file"),
        ("nowhere_to_be_found:make", "cannot be imported"),
    ]:
        with pytest.raises(DatasetError, match=what):
            PYTHON.inspect(PYTHON.Params(function=function))
    (tmp_path / "good.py").write_text(SOURCE)
    with pytest.raises(DatasetError, match="which --watch names"):
        PYTHON.inspect(PYTHON.Params(function=f"{tmp_path}/good.py:make", watch=[tmp_path / "none"]))
