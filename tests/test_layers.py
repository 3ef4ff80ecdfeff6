"""Imports point down only."""

import ast
from pathlib import Path

import polyclinic

PACKAGE = Path(polyclinic.__file__).parent

# A later layer may import an earlier one. A new module or package of the first level must be added here.
LAYERS = [
    {"errors", "html", "randomness"},
    {"compression", "tensors"},
    {"messages", "metrics"},
    {"plans", "aggregators"},
    {"datasets"},
    {"node"},
    {"federation"},
    {"experiment"},
    {"benchmark"},
    {"cli", "__init__"},
    {"__main__"},
]
RANK = {name: level for level, names in enumerate(LAYERS) for name in names}


def imports(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            if node.module == "polyclinic":
                yield from (alias.name for alias in node.names)
            elif node.module.startswith("polyclinic."):
                yield node.module.split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("polyclinic."))


def test_imports_point_down():
    upward = []
    for path in PACKAGE.rglob("*.py"):
        here = path.relative_to(PACKAGE).with_suffix("").parts[0]
        above = [there for there in imports(path) if there in RANK and here != there and RANK[there] >= RANK[here]]
        upward += [f"{path.relative_to(PACKAGE)}: {here} -> {there}" for there in above]
    assert upward == []


def test_the_test_sees_an_upward_import(tmp_path):
    program = tmp_path / "errors.py"
    program.write_text("from polyclinic.node.node import Node\nfrom polyclinic import experiment\n")
    assert list(imports(program)) == ["node", "experiment"]


def test_every_module_has_a_layer():
    names = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert names == set(RANK)


def test_no_file_has_a_name_that_says_nothing():
    bad = {"utils", "helpers", "misc", "common"}
    assert [path for path in PACKAGE.rglob("*") if path.stem in bad] == []


def test_no_file_has_more_than_400_lines():
    long = {path.name: n for path in PACKAGE.rglob("*.py") if (n := len(path.read_text().splitlines())) > 400}
    assert long == {}


def test_no_function_has_more_than_60_lines():
    long = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and (n := node.end_lineno - node.lineno + 1 - docstring(node)) > 60:
                long[f"{path.name}:{node.name}"] = n
    assert long == {}


def docstring(node):
    first = node.body[0]
    is_one = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return first.end_lineno - first.lineno + 1 if is_one else 0
