"""The names that users import are sorted, real, and cheap to come by."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import polyclinic


def test_public_names_are_sorted():
    assert polyclinic.__all__ == sorted(polyclinic.__all__)


@pytest.mark.parametrize("name", polyclinic.__all__)
def test_public_name_is_real_and_documented(name):
    assert getattr(polyclinic, name).__doc__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="FedAvg"):
        _ = polyclinic.FedAvg


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(polyclinic.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {(line.names[0].name, line.module) for line in block.body}
    assert seen == set(polyclinic._WHERE.items())
    assert {name for name, _ in seen} == set(polyclinic.__all__)


@pytest.mark.parametrize("program", ["import polyclinic", "from polyclinic.cli import main"])
def test_importing_does_not_import_heavy_packages(program):
    heavy = ("torch", "pandas", "sklearn", "numpy", "matplotlib", "sqlalchemy")
    look = f"print([name for name in {heavy} if name in __import__('sys').modules])"
    ran = subprocess.run([sys.executable, "-c", f"{program}; {look}"], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
