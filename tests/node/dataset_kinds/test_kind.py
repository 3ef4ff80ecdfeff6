import subprocess
import sys

import pydantic
import pytest

from polyclinic.errors import ConfigError
from polyclinic.node.dataset_kinds import KINDS, Found, get_kind


def test_every_kind_has_its_name_and_closed_frozen_params():
    assert list(KINDS) == ["federated", "images", "python", "tabular"]
    for name in KINDS:
        kind = get_kind(name)
        assert kind.name == name
        assert kind.Params.model_config["frozen"]
        assert kind.Params.model_config["extra"] == "forbid"


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ConfigError, match="unknown kind of dataset 'tabula'") as caught:
        get_kind("tabula")
    assert "'tabular'" in caught.value.to_do


def test_the_package_imports_nothing_heavy():
    program = (
        "import sys, polyclinic.node.dataset_kinds; print([m for m in ('torch','pandas','PIL') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_checking_a_table_needs_no_torch(tmp_path):
    (tmp_path / "t.csv").write_text("a,y\n1,0\n2,1\n3,0\n")
    program = f"""
import sys
from polyclinic.node.dataset_kinds import get_kind
kind = get_kind("tabular")
kind.inspect(kind.Params(path={str(tmp_path / "t.csv")!r}, target="y"))
print("torch" in sys.modules)
"""
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"


def test_found_survives_the_database_and_is_closed():
    found = Found(num_train=2, num_test=1, features=("a",), shape=(1,), missing={"a": 1}, fingerprint="f")
    assert Found.model_validate_json(found.model_dump_json()) == found
    with pytest.raises(pydantic.ValidationError):
        Found(num_train=2, num_test=1, fingerprint="f", rows=3)
