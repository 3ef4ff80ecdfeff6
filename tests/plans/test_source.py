"""A plan class as text and back: what travels, in which order, in which words."""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import inspect
import json
import math
import os
import subprocess
import sys
import textwrap
import traceback
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import polyclinic
from polyclinic.errors import PlanError, PlanSourceError
from polyclinic.plans.constants import literal_text
from polyclinic.plans.source import PlanSource, add_dependencies, extract_source, load_plan_class

ACCEPTANCE = Path(__file__).parents[3] / "shared" / "acceptance"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes modules into a folder on the path and imports the first one."""
    monkeypatch.syspath_prepend(tmp_path)
    made: list[str] = []

    def write_and_import(text: str, **others: str):
        for name, other in {**others, "my_program": text}.items():
            (tmp_path / f"{name}.py").write_text(textwrap.dedent(other))
            made.append(name)
        importlib.invalidate_caches()
        return importlib.import_module("my_program")

    yield write_and_import
    for name in made:
        sys.modules.pop(name, None)


def build(source: PlanSource):
    return load_plan_class(source)()


def names_in(source: PlanSource) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(source.text)) if isinstance(node, ast.Name)}


def test_only_what_is_used_travels_and_in_its_own_words(program):
    module = program(
        """
        import json, math
        import os.path
        import collections.abc as abc
        from functools import partial as part, reduce

        UNUSED = object()
        # Hidden units.
        HIDDEN = 32  # chosen on va
        WIDTHS = (HIDDEN, HIDDEN * 2)


        # Doubles.
        @part
        def double(x: abc.Sized, by: int = WIDTHS[1]):
            '''A docstring.'''
            return math.sqrt(x * by)  # root


        def unused():
            return json


        class Base:
            size = HIDDEN


        class Plan(Base):
            def value(self):
                return double(self.size)
        """
    )
    source = extract_source(module.Plan)
    assert source.text == textwrap.dedent(
        """\
        # The training plan Plan and all that it uses, taken by Polyclinic from my_program.py.

        import collections.abc as abc
        import math
        from functools import partial as part

        # Hidden units.
        HIDDEN = 32  # chosen on va
        WIDTHS = (HIDDEN, HIDDEN * 2)


        class Base:
            size = HIDDEN


        # Doubles.
        @part
        def double(x: abc.Sized, by: int = WIDTHS[1]):
            '''A docstring.'''
            return math.sqrt(x * by)  # root


        class Plan(Base):
            def value(self):
                return double(self.size)
        """
    )
    assert build(source).value() == module.Plan().value() == math.sqrt(32 * 64)
    assert source.sha256 == hashlib.sha256(source.text.encode()).hexdigest()


def test_super_without_arguments_is_no_closure(program):
    module = program(
        """
        class Base:
            def __init__(self, n=1): self.n = n

        class Plan(Base):
            def __init__(self):
                super().__init__(5)
                self.kind = __class__.__name__
        """
    )
    plan = build(extract_source(module.Plan))
    assert (plan.n, plan.kind) == (5, "Plan")


def test_what_is_needed_while_defining_stands_first_even_if_functions_need_each_other(program):
    module = program(
        """
        def even(n): return True if n == 0 else odd(n - 1)
        def odd(n): return False if n == 0 else even(n - 1)
        FOUR_IS_EVEN = [even(4), object][0]

        class Part:
            def whole(self): return Plan

        class Plan(Part):
            answer = even(3)
            part = Part()
            def value(self): return FOUR_IS_EVEN, self.answer, self.part.whole() is Plan
        """
    )
    assert build(extract_source(module.Plan)).value() == (True, False, True)


@pytest.mark.parametrize(
    ("defining", "written"),
    [
        ("X = 3  # note", "X = 3  # note"),
        ("X: float = 1e-3", "X: float = 1e-3"),
        ("X = 3\nX = 4", "X = 4"),
        ("X = 3\nX += 4", "X = 7"),
        ("X = []\nX.append(2)", "X = [2]"),
        ("X = {'a': 1}\nX['b'] = {2}", "X = {'a': 1, 'b': {2}}"),
        ("import os\nX = int(os.environ.get('NOT_THERE', 10))", "X = 10"),
        ("import random\nrandom.seed(1)\nX = random.randint(5, 5)", "X = 5"),
        ("from pathlib import Path\nX = len(Path(__file__).read_text()) * 0", "X = 0"),
        ("X = 'cpu'\nif len('ab') > 1:\n    X = 'cuda'", "X = 'cpu'\nif len('ab') > 1:\n    X = 'cuda'"),
        ("for X in range(3): pass", "X = 2"),
        ("A, X = 1, 2", "A, X = 1, 2"),
        ("A = 1; X = 2; C = 3", "X = 2"),
        ("if True:\n    X = 2\nelse:\n    X = 3", "if True:\n    X = 2\nelse:\n    X = 3"),
        ("try:\n    import missing_here as X\nexcept ImportError:\n    X = None", None),
        ("X = float('inf')", "X = float('inf')"),
        ("import math\nX = math.ceil(1.5)", "X = math.ceil(1.5)"),
        ("X = (lambda a: a)(3)", "X = (lambda a: a)(3)"),
        ("globals()['X'] = 12", "X = 12"),
        ("from math import *\nX = pi", "X = pi"),
    ],
)
def test_constants_travel_as_their_statement_or_as_their_value(program, defining, written):
    module = program(defining + "\n\nclass Plan:\n    def value(self): return X\n")
    source = extract_source(module.Plan)
    assert written is None or f"\n{written}\n" in source.text
    assert build(source).value() == module.X


def test_objects_that_a_statement_makes_travel_as_the_statement_and_its_changes(program):
    module = program(
        """
        import re
        from collections import OrderedDict
        TABLE = {"relu": abs}
        TABLE["tanh"] = round
        ORDER = OrderedDict(b=1)
        ORDER.update(a=2)
        WORD = re.compile("[a-z]+")
        act = lambda x: TABLE["relu"](x) + ORDER["a"]
        class Plan:
            def value(self): return act(-3), sorted(TABLE), list(ORDER), WORD.match("ab1").group()
        """
    )
    assert build(extract_source(module.Plan)).value() == module.Plan().value()


def test_settings_inside_of_a_library_are_not_taken_for_a_part_of_its_import(program):
    module = program(
        """
        import os, sys
        import xml.dom
        import xml.sax.handler
        os.environ["POLYCLINIC_TEST_X"] = "1"
        sys.path.append("/nowhere")
        class Plan:
            def value(self): return os.sep, sys.byteorder, xml.dom.Node
        """
    )
    text = extract_source(module.Plan).text
    assert "environ" not in text
    assert "nowhere" not in text
    assert "import xml.dom\n" in text
    assert "xml.sax" not in text
    sys.path.remove("/nowhere")
    del os.environ["POLYCLINIC_TEST_X"]


def test_a_class_that_is_made_from_its_older_self(program):
    module = program(
        "class Plan:\n    def one(self): return 1\n\nclass Plan(Plan):\n    def value(self): return self.one()\n"
    )
    assert build(extract_source(module.Plan)).value() == 1


def test_lines_are_counted_as_python_counts_them(program):
    module = program(
        "X = 'a\u2028b'\n\x0cY = 'c'\n# Above.\nclass Plan:\n    def value(self): return X + Y  # \x1d end\n"
    )
    source = extract_source(module.Plan)
    assert "\n# Above.\nclass Plan:\n" in source.text
    assert build(source).value() == "a\u2028bc"


def test_a_class_body_may_read_the_global_name_that_it_sets(program):
    module = program("width = 3\nclass Plan:\n    width = width\n    def value(self): return self.width\n")
    assert build(extract_source(module.Plan)).value() == 3


def test_annotations_travel_if_found_and_do_no_harm_if_not(program):
    module = program(
        """
        from __future__ import annotations
        import dataclasses
        import typing
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from nowhere import Thing

        @dataclasses.dataclass
        class Config:
            name: str
            kind: typing.ClassVar[int] = 2

        DATA = open(__file__)

        class Plan:
            def value(self, a: Thing = None, b: DATA = None) -> Config:
                local: Other = 1
                return dataclasses.astuple(Config("x")), typing.get_type_hints(Config)["name"]
        """
    )
    source = extract_source(module.Plan)
    assert "from __future__ import annotations\n" in source.text
    assert "DATA = open" not in source.text
    assert build(source).value() == (("x",), str)
    module.DATA.close()


def test_annotations_that_run_are_needed_and_quoted_ones_are_not(program):
    module = program(
        """
        class Config: pass
        class Plan:
            def value(self, a: Config = None, b: "Thing" = None) -> "Config | None": return 1
        """
    )
    source = extract_source(module.Plan)
    assert "class Config" in source.text
    assert build(source).value() == 1


def test_a_class_in_a_function_travels_if_it_has_no_closure(program):
    module = program(
        '''
        HIDDEN = 3
        def make():
            class Plan:
                """Doc."""
                text = """
            kept
        as it is"""
                def value(self): return HIDDEN, self.text
            return Plan
        '''
    )
    cls = module.make()
    assert build(extract_source(cls)).value() == cls().value()


def test_only_what_ran_under_the_main_guard_counts(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(
            """
            import sys
            from polyclinic.plans.source import extract_source
            class Plan:
                def value(self): return DEPTH, type(self).__name__
            if __name__ == "__main__":
                DEPTH = 4
                sys.stdout.write(extract_source(Plan).text)
            """
        )
    )
    text = run(script)
    assert "DEPTH = 4\n" in text
    assert "__main__" not in text
    assert str(tmp_path) not in text
    assert build(PlanSource(text, "Plan")).value() == (4, "Plan")


SCRIPT = """
import sys
import mynet
from layers import block as make_block, RATE
from pathlib import PurePosixPath
NAMES = {"b", "a", "c", "d", "e"}
NAMES.add("f")
class Plan:
    def value(self):
        return [make_block(2), RATE, mynet.Net().size, mynet.deep.CONSTANT, sorted(NAMES), str(PurePosixPath("a"))]
if __name__ == "__main__":
    import json
    from polyclinic.plans.source import extract_source
    source = extract_source(Plan)
    json.dump([source.text, source.sha256, Plan().value()], sys.stdout)
"""
LOOSE = {
    "layers.py": "from mynet import twice\nRATE = 0.5\ndef block(n):\n    return twice(n)\ndef unused(): return 1\n",
    "mynet/__init__.py": "from . import deep\nfrom .deep import size\ndef twice(n): return 2 * n\n"
    "class Net:\n    size = size\n",
    "mynet/deep.py": "import math\nCONSTANT = math.pi\nsize = (1, 2)\n",
}


def test_loose_modules_travel_and_every_process_and_folder_gives_the_same_bytes(tmp_path):
    answers = []
    for seed, folder in [("1", "a"), ("2", "b c")]:
        for name, text in {**LOOSE, "script.py": SCRIPT}.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_text(text)
        answers.append(json.loads(run(tmp_path / folder / "script.py", PYTHONHASHSEED=seed)))
    assert answers[0] == answers[1]
    text, sha256, value = answers[0]
    assert "unused" not in text
    assert "# From mynet/__init__.py:\n" in text
    # Another process, in another folder, without the loose files.
    loader = tmp_path / "loader.py"
    loader.write_text(
        "import json, sys\nfrom polyclinic.plans.source import *\nfrom polyclinic.plans.source import PlanSource\n"
        "source = PlanSource(sys.argv[1], 'Plan')\n"
        "json.dump([source.sha256, load_plan_class(source)().value()], sys.stdout)\n"
    )
    assert json.loads(run(loader, text)) == [sha256, value]


def run(script: Path, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, str(script), *arguments],
        env={**os.environ, **environment},
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_class_given_with_dash_c_is_refused_or_travels(tmp_path):
    code = "class Plan:\n    x = 1\nfrom polyclinic.plans.source import extract_source\nextract_source(Plan)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "PlanSourceError: the text of class Plan was not kept" in done.stderr
    assert "define it in a file or in a notebook cell" in done.stderr


def test_a_module_that_is_not_registered_still_has_its_text(tmp_path):
    path = tmp_path / "loaded.py"
    path.write_text("N = 4\nclass Plan:\n    def value(self): return N\n")
    spec = importlib.util.spec_from_file_location("never_registered", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert build(extract_source(module.Plan)).value() == 4


@pytest.fixture
def front_page(monkeypatch):
    """What the acceptance programs import, as far as their plans need it."""
    pytest.importorskip("torch")
    from polyclinic.plans.torch_plan import TorchTrainingPlan

    for name in ("Experiment", "FedAverage", "FedProx"):
        monkeypatch.setattr(polyclinic, name, object, raising=False)
    monkeypatch.setattr(polyclinic, "TorchTrainingPlan", TorchTrainingPlan, raising=False)


def plan_of(name: str, class_name: str, tmp_path: Path, until: str):
    """A plan of an acceptance program, which is run up to where it starts to work."""
    path = tmp_path / name
    path.write_text((ACCEPTANCE / name).read_text().partition(until)[0])
    spec = importlib.util.spec_from_file_location("acceptance_program", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return extract_source(getattr(module, class_name))


@pytest.mark.skipif(not ACCEPTANCE.is_dir(), reason="the acceptance programs are not beside this checkout")
def test_the_plan_of_a_notebook_program_travels(tmp_path, front_page):
    import torch

    source = plan_of("own_data_own_model.py", "HeartPlan", tmp_path, "common = dict(")
    assert source.text.startswith(
        "# The training plan HeartPlan and all that it uses, taken by Polyclinic from own_data_own_model.py.\n\n"
        "import torch\nfrom polyclinic import TorchTrainingPlan\nfrom torch import nn\n"
        "from torch.nn import functional as F\n\nHIDDEN = 32\n\n\n"
        "def block(n_in: int, n_out: int) -> nn.Sequential:\n"
    )
    plan = load_plan_class(source)({"features": 13})
    assert plan.training_step(torch.ones(4, 13), torch.ones(4, 1)).ndim == 0


@pytest.mark.skipif(not ACCEPTANCE.is_dir(), reason="the acceptance programs are not beside this checkout")
def test_the_plan_of_the_first_program_travels(tmp_path, front_page, monkeypatch):
    stub = types.ModuleType("polyclinic.datasets.fed_ixi")
    for name in ("BATCH_SIZE", "LR", "Baseline", "BaselineLoss", "Optimizer"):
        setattr(stub, name, object())
    monkeypatch.setitem(sys.modules, stub.__name__, stub)
    source = plan_of("using_fed_ixi.py", "FedIXIPlan", tmp_path, "training_args = {")
    line = "from polyclinic.datasets.fed_ixi import Baseline, BaselineLoss, Optimizer"
    assert source.text.splitlines()[2:4] == ["from polyclinic import TorchTrainingPlan", line]
    assert source.text.count("\nclass ") == 1
    # What it declares by hand was found already.
    assert add_dependencies(source, [line]) == source


class InThisFile:
    def value(self):
        return textwrap.dedent("  a")


def test_a_class_of_a_test_file_travels():
    source = extract_source(InThisFile)
    assert "taken by Polyclinic from test_source.py.\n" in source.text
    assert build(source).value() == "a"


# Loading


TEXT = "# A plan.\n\nimport math\n\n\nclass Plan:\n    def fail(self):\n        return math.sqrt(-1)  # here\n"


def test_tracebacks_and_inspect_show_the_lines_of_the_text():
    cls = load_plan_class(PlanSource(TEXT, "Plan"))
    with pytest.raises(ValueError, match=r"math domain error|nonnegative") as caught:
        cls().fail()
    assert "return math.sqrt(-1)  # here" in "".join(traceback.format_exception(caught.value))
    assert inspect.getsource(cls).startswith("class Plan:")
    assert inspect.getsource(cls.fail).lstrip().startswith("def fail")


def test_a_text_is_run_once_and_its_class_gives_the_same_text_again():
    source = PlanSource(TEXT, "Plan")
    cls = load_plan_class(source)
    assert load_plan_class(PlanSource(TEXT, "Plan")) is cls
    assert sys.modules[f"polyclinic_plan_{source.sha256[:12]}"].Plan is cls
    assert extract_source(cls) == source


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("class Plan:\n  def", PlanSourceError, r"not Python.*\(at line 2\)"),
        ("x = 1\n", PlanSourceError, "no class 'Plan'"),
        ("Plan = 3\n", PlanSourceError, "no class 'Plan'"),
        ("import not_there_at_all\nclass Plan: pass\n", PlanError, "ModuleNotFoundError.*not_there_at_all"),
    ],
)
def test_a_text_that_cannot_be_run_is_a_plan_error_and_leaves_nothing(text, error, message):
    source = PlanSource(text, "Plan")
    with pytest.raises(error, match=message):
        load_plan_class(source)
    with pytest.raises(error, match=message):
        load_plan_class(source)


# Hand-written imports


def test_hand_written_imports_stand_at_the_top_once():
    source = PlanSource(TEXT, "Plan")
    more = add_dependencies(source, ["import math", "from os import sep, path", "import json as j", "import json as j"])
    assert more.text == TEXT.replace("import math\n", "from os import path, sep\nimport json as j\nimport math\n")
    assert more.class_name == "Plan"
    assert add_dependencies(more, ["from os import sep"]) == more
    assert add_dependencies(source, []) == source
    assert source.text == TEXT


def test_hand_written_imports_go_below_the_future_and_above_comments():
    text = "# Header.\n\nfrom __future__ import annotations\n\n# About Plan.\n@print\nclass Plan: pass\n"
    more = add_dependencies(PlanSource(text, "Plan"), ["import math"])
    assert more.text == text.replace("# About", "import math\n# About")


def test_names_of_hand_written_imports_are_not_undefined(program):
    module = program("class Plan:\n    def value(self): return sqrt(4)\n")
    source = extract_source(module.Plan, ["from math import sqrt"])
    assert build(source).value() == 2
    with pytest.raises(PlanSourceError, match="'sqrt' is not defined"):
        extract_source(module.Plan)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("import math; print(1)", "is not an import"),
        ("imprt math", "is not Python"),
        ("from math import *", "cannot stand in a plan's text"),
        ("from . import x", "cannot stand in a plan's text"),
        ("from __future__ import annotations", "cannot stand in a plan's text"),
        ("import a_loose_file", "'a_loose_file', a loose file that the nodes do not have"),
    ],
)
def test_other_hand_written_lines_are_refused(tmp_path, monkeypatch, line, message):
    (tmp_path / "a_loose_file.py").write_text("x = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PlanSourceError, match=message):
        add_dependencies(PlanSource(TEXT, "Plan"), [line])


# Literals


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**5000, max_value=10**5001)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.integers() | st.text(), inner, max_size=3)
        | st.sets(st.integers() | st.text() | st.tuples(st.booleans()), max_size=3)
        | st.frozensets(st.floats(allow_nan=False), max_size=3)
    ),
    max_leaves=8,
)


@given(plain)
def test_literals_round_trip_with_their_types(value):
    back = eval(literal_text(value))
    assert back == value
    assert type(back) is type(value)
    assert literal_text(back) == literal_text(value)


def test_what_is_not_plain_has_no_literal():
    cycle: list = []
    cycle.append(cycle)

    class Whole(int):
        pass

    for value in (Whole(3), [Whole(3)], object(), cycle, len, {"a": print}):
        assert literal_text(value) is None
    assert math.isnan(eval(literal_text(math.nan)))
