"""What cannot travel is refused at the researcher: each with the symbol, the line and what to do."""

from __future__ import annotations

import importlib
import io
import re
import sys
import textwrap

import pytest

from polyclinic.errors import PlanSourceError
from polyclinic.plans.source import extract_source


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """Imports a program and gives the error of extracting its plan."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    made: list[str] = []

    def run(text: str, find=lambda module: module.Plan, **others: str) -> PlanSourceError:
        for name, other in {**others, "my_program": text}.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(other).lstrip("\n"))
            made.append(name)
        importlib.invalidate_caches()
        module = importlib.import_module("my_program")
        with pytest.raises(PlanSourceError) as caught:
            extract_source(find(module))
        for value in vars(module).values():
            if isinstance(value, io.IOBase):
                value.close()
        return caught.value

    yield run
    for name in made:
        sys.modules.pop(name, None)


USING_X = "\n\nclass Plan:\n    def value(self):\n        return X\n"


@pytest.mark.parametrize(
    ("defining", "what", "line"),
    [
        ("X = open(__file__)", "'X' is an open file", 1),
        ("import json\nX = [json.load(open('x'))] if 0 else [len]", "reads something", 2),
        ("from pathlib import Path\n\nX = Path(__file__)", "'__file__' means a place on this machine", 3),
        (
            "from pathlib import Path\nX = {Path('a'): Path('x').read_text} if 1 else Path('x').read_text()",
            "read_text",
            2,
        ),
        ("import os\nX = [os.environ]", "uses os.environ, which is this machine's", 2),
        ("import os as o\nX = [len, o.getenv('HOME')]", "calls os.getenv", 2),
        ("from os import environ\nX = [len, environ.get('HOME')]", "os.environ", 2),
        ("import numpy as np\nX = np.random.rand(3)", "another value each time: numpy.random.rand", 2),
        ("import datetime\nX = datetime.datetime.now()", "another value each time", 2),
        ("import subprocess\nX = [len] or subprocess.run('ls')", "calls subprocess.run", 2),
        ("import urllib.request as r\nX = [len] or r.urlopen('http://x')", "urlopen", 2),
        ("X = (i for i in range(3))", "'X' is a running generator", 1),
        ("X = eval('len')", "calls eval", 1),
        (
            "def read():\n    with open('my_program.py') as f:\n        return [len, f.read()]\n\nX = read()",
            "'X' cannot be made again at a node: it calls read, which calls open",
            5,
        ),
        ("globals()['X'] = len", "no statement at the top level of my_program.py defines 'X'", 5),
        ("X = 1\ndel X", "'X' is not defined", 6),
        ("pass", "'X' is not defined", 5),
        ("X = list(range(10_000))\nX.append(open(__file__).close())", "characters of text", 2),
        (
            "from builtins import len as X\ndisplay = X\nX = get_ipython if 0 else len",
            "'get_ipython' is not defined",
            3,
        ),
    ],
)
def test_values_that_cannot_be_made_again(refused, defining, what, line):
    err = refused(defining + USING_X)
    assert what in err.what
    assert err.where["at"] == f"my_program.py:{line}"
    assert err.to_do
    assert "Plan" in str(err.where.get("used_by", "X")) or "X" in str(err.where["used_by"])


def test_a_model_with_weights_of_its_own(refused):
    pytest.importorskip("torch")
    err = refused("import torch\nX = torch.nn.Linear(3, 2)" + USING_X)
    assert "'X' is a model with 8 numbers of its own" in err.what
    assert "__init__" in err.to_do
    assert err.where == {"used_by": "Plan at my_program.py:4", "at": "my_program.py:2"}


def test_a_loaded_model_and_a_table_read_from_a_file(refused, tmp_path):
    pd = pytest.importorskip("pandas")
    pd.DataFrame({"a": [1]}).to_csv(tmp_path / "t.csv")
    err = refused("import pandas as pd\nDF = pd.read_csv('t.csv')\nX = DF.dropna()" + USING_X)
    assert err.what.startswith("'DF' cannot be made again at a node: it calls pandas.read_csv")
    assert err.where == {"used_by": "X at my_program.py:3", "at": "my_program.py:2"}


def test_a_closure(refused):
    err = refused(
        """
        def make(width):
            depth = 3
            class Plan:
                def value(self):
                    return [width for _ in range(2)]
            return Plan
        """,
        lambda module: module.make(3),
    )
    assert err.what == "'width' is a local variable of make(); it cannot travel to the nodes"
    assert err.where["at"] == "my_program.py:5"
    assert "model_args" in err.to_do


def test_a_base_class_that_is_local_to_a_function(refused):
    err = refused(
        """
        def make():
            class Base: pass
            class Plan(Base): pass
            return Plan
        """,
        lambda module: module.make(),
    )
    # A class without methods does not say where it comes from; the module does.
    assert "'Base' is a local variable of make()" in err.what
    assert err.where["at"] == "my_program.py:3"


def test_a_nested_class(refused):
    err = refused("class Outer:\n    class Plan:\n        def f(self): pass\n", lambda module: module.Outer.Plan)
    assert "Outer.Plan is a class inside of another class" in err.what
    assert err.where["at"] == "my_program.py:2"


def test_global_state_that_is_set(refused):
    err = refused(
        """
        COUNT = 0
        class Plan:
            def value(self):
                global COUNT
                COUNT += 1
        """
    )
    assert "'Plan' sets the global variable 'COUNT'" in err.what
    assert err.where["at"] == "my_program.py:4"
    assert "self.COUNT" in err.to_do


def test_a_registry_that_decorators_fill(refused):
    err = refused(
        """
        NETS = {}
        def register(cls):
            NETS[cls.__name__] = cls
            return cls
        @register
        class Net: pass
        class Plan:
            def value(self): return NETS["Net"]()
        """
    )
    assert err.what == "'NETS' has 1 entries, but 0 in its statement: something else filled it"
    assert err.where["at"] == "my_program.py:1"


def test_names_of_the_prompt(refused):
    err = refused("class Plan:\n    def value(self):\n        exit()\n")
    assert "'exit' belongs to the notebook or the prompt" in err.what
    assert err.where["at"] == "my_program.py:3"


def test_two_modules_with_one_name(refused):
    err = refused(
        "from one import f\nfrom two import g\nclass Plan:\n    def value(self): return f() + g()\n",
        one="def part(): return 1\ndef f(): return part()\n",
        two="def part(): return 2\ndef g(): return part()\n",
    )
    assert err.what == "two different things are called 'part': at one.py:1 and at two.py:1; they need one text"
    assert "rename" in err.to_do


def test_a_loose_module_that_is_used_as_a_whole(refused):
    err = refused("import mine\nclass Plan:\n    def value(self):\n        return getattr(mine, 'x')\n", mine="x = 1\n")
    assert "the module 'mine' is a loose file that is used as a whole" in err.what
    assert err.where["at"] == "my_program.py:4"
    assert "from mine import" in err.to_do


def test_a_loose_module_that_is_imported_in_a_function(refused):
    err = refused("class Plan:\n    def value(self):\n        from mine import x\n        return x\n", mine="x = 1\n")
    assert "'Plan' imports mine where it cannot be followed" in err.what
    assert err.where["at"] == "my_program.py:3"


def test_a_default_and_a_class_body_are_judged_like_constants(refused):
    err = refused("class Plan:\n    def value(self, n=input):\n        return n\n    stamp = __import__('time')\n")
    assert "'Plan' cannot be made again at a node: it calls __import__" in err.what
    assert err.where["at"] == "my_program.py:4"


def test_a_class_without_a_class_statement(refused):
    err = refused("Plan = type('Plan', (), {})\n")
    assert "has no class Plan" in err.what


def test_not_a_class():
    with pytest.raises(PlanSourceError, match=re.escape("a training plan is a class, not int")):
        extract_source(3)  # type: ignore[arg-type]


def test_the_whole_error_reads_well(refused):
    err = refused("class Plan:\n    def value(self):\n        return Net(3)\n")
    assert str(err) == (
        "'Net' is not defined (used_by Plan at my_program.py:1, at my_program.py:3)\n"
        "  What to do: define or import Net at the top level of my_program.py and run that before"
    )
