"""A plan class as one readable text, and back.

The text carries what the class uses, and nothing else: imports, constants, functions and classes of the researcher's
program, in their original words and in an order that runs. A hospital reads and approves this text by its SHA-256,
and a node runs exactly it. The same program gives the same bytes on every machine.

What cannot be taken along raises `PlanSourceError` at the researcher, before anything is sent.
"""

from __future__ import annotations

import ast
import hashlib
import linecache
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType

from polyclinic.errors import PlanError, PlanSourceError
from polyclinic.plans.collect import Collector
from polyclinic.plans.free_names import Definition, Function, local_names
from polyclinic.plans.installed import is_installed
from polyclinic.plans.plan_text import (
    imports_of,
    in_running_order,
    lines_of,
    parse_import_line,
    with_import_lines,
    write_text,
)
from polyclinic.plans.program_text import Program, Statement, functions_of, program_of_class


@dataclass(frozen=True)
class PlanSource:
    """A training plan as it travels.

    Attributes:
        text: one self-contained Python text.
        class_name: the plan class in it.
        sha256: of the text in UTF-8, hexadecimal: what a hospital approves.
    """

    text: str
    class_name: str

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


_modules: dict[str, ModuleType] = {}  # by the whole SHA-256; the modules' names have a part of it
_loaded: dict[tuple[str, str], tuple[PlanSource, type]] = {}
_loading = threading.RLock()


def extract_source(plan_class: type, dependencies: Sequence[str] = ()) -> PlanSource:
    """Makes one readable text of a class and all that it uses.

    Args:
        plan_class: defined in a file, in the running script or in a notebook cell.
        dependencies: import lines written by hand, to be added at the top.

    Raises:
        PlanSourceError: something that the class uses cannot travel; names it, its line and what to do.
    """
    if not isinstance(plan_class, type):
        raise PlanSourceError(
            f"a training plan is a class, not {type(plan_class).__name__}", to_do="give the class itself, not an object"
        )
    for source, loaded in list(_loaded.values()):
        if loaded is plan_class:
            return add_dependencies(source, dependencies)
    program = program_of_class(plan_class)
    making, enclosing = _making_of_class(program, plan_class)
    provided = [e.gives for line in dependencies for node in parse_import_line(line) for e in imports_of(node)]
    collector = Collector(provided)
    collector.take_class(program, making, enclosing)
    text = write_text(
        f"The training plan {plan_class.__name__} and all that it uses, taken by Polyclinic from {program.label}.",
        collector.imports,
        in_running_order(collector.pieces),
        main=program.label,
        lazy_annotations=collector.lazy_annotations,
    )
    return add_dependencies(PlanSource(text, plan_class.__name__), dependencies)


def add_dependencies(source: PlanSource, lines: Sequence[str]) -> PlanSource:
    """The same plan with import lines written by hand at the top; what it imports already is not added again.

    Raises:
        PlanSourceError: a line that is not an import, or imports a loose file that no node has.
    """
    for line in lines:
        for node in parse_import_line(line):
            for entry in imports_of(node):
                if not is_installed(entry.module):
                    raise PlanSourceError(
                        f"the dependency {line!r} imports {entry.module!r}, a loose file that the nodes do not have",
                        to_do="import it at the top of your program: what the plan uses of it travels by itself",
                    )
    return PlanSource(with_import_lines(source.text, lines), source.class_name)


def load_plan_class(source: PlanSource) -> type:
    """Runs a plan's text in a fresh module and returns its class; the same text is run once in a process.

    This executes the text. A node does it only after approval, in its sandbox.

    Raises:
        PlanSourceError: the text is not Python, or has no such class.
        PlanError: the text cannot be run here, for example because a module is missing.
    """
    key = (source.sha256, source.class_name)
    with _loading:
        if key not in _loaded:
            if source.sha256 not in _modules:
                _modules[source.sha256] = _run(source)
            cls = vars(_modules[source.sha256]).get(source.class_name)
            if not isinstance(cls, type):
                raise PlanSourceError(
                    f"the plan's text has no class {source.class_name!r}",
                    to_do="make the text with extract_source",
                    plan=source.sha256[:12],
                )
            _loaded[key] = (source, cls)
        return _loaded[key][1]


def _run(source: PlanSource) -> ModuleType:
    name = f"polyclinic_plan_{source.sha256[:12]}"
    # Tracebacks and inspect find the lines by this name; a name in angle brackets is never looked for on disk.
    filename = f"<{name}>"
    linecache.cache[filename] = (len(source.text), None, lines_of(source.text), filename)
    module = ModuleType(name)
    module.__file__ = filename
    # Before it runs: dataclasses look their module up by name.
    sys.modules[name] = module
    try:
        exec(compile(source.text, filename, "exec", dont_inherit=True), vars(module))
    except SyntaxError as err:
        del sys.modules[name]
        raise PlanSourceError(
            f"the plan's text is not Python: {err.msg}", to_do="make it with extract_source", at=f"line {err.lineno}"
        ) from err
    except Exception as err:
        del sys.modules[name]
        raise PlanError(
            f"the plan's text cannot be run here: {type(err).__name__}: {err}",
            to_do="install what is missing here, or mend the plan",
            plan=source.sha256[:12],
        ) from err
    return module


def _making_of_class(program: Program, cls: type) -> tuple[list[Statement], dict[str, str]]:
    """The statements that made a class, and the local variables of the functions around it."""
    path = cls.__qualname__.replace(".<locals>", "").split(".")
    lines = {(f.__code__.co_filename, f.__code__.co_firstlineno) for f in functions_of(cls)}
    found: list[tuple[Statement, list[Function]]] = []
    for statement in program.statements:
        found += [(Statement(statement.chunk, n), around) for n, around in _classes(statement.node, path)]
    if not found:
        raise PlanSourceError(
            f"the text of {program.label} has no class {cls.__qualname__}",
            to_do="define the class by a class statement in a file or notebook cell",
            module=program.module,
        )
    statement, around = next((f for f in reversed(found) if _covers(f[0], lines)), found[-1])
    if len(path) - 1 != len(around):
        raise PlanSourceError(
            f"{cls.__qualname__} is a class inside of another class; it cannot travel by itself",
            to_do="move it to the top level",
            at=statement.place,
        )
    enclosing = {name: function.name for function in around for name in sorted(local_names(function))}
    making = program.making_of(cls.__name__) if not around else []
    if any(s.node is statement.node for s in making):
        return making, {}
    enclosing.pop(cls.__name__, None)
    return [statement], enclosing


def _classes(node: ast.stmt, path: list[str]) -> list[tuple[ast.ClassDef, list[Function]]]:
    """The class statements at a dotted path of names, each with the functions around it."""
    found: list[tuple[ast.ClassDef, list[Function]]] = []
    if isinstance(node, Definition):
        if node.name != path[0]:
            return []
        if len(path) == 1:
            return [(node, [])] if isinstance(node, ast.ClassDef) else []
        path, around = path[1:], [node] if isinstance(node, Function) else []
    else:
        around = []
    for inner in _inner_statements(node):
        found += [(cls, [*around, *outer]) for cls, outer in _classes(inner, path)]
    return found


def _inner_statements(node: ast.AST) -> Iterator[ast.stmt]:
    """The statements directly inside of another one, also in its handlers and cases."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        elif isinstance(child, ast.ExceptHandler | ast.match_case):
            yield from child.body


def _covers(statement: Statement, lines: set[tuple[str, int]]) -> bool:
    first, last = statement.node.lineno + statement.chunk.skipped, (statement.node.end_lineno or 0)
    return any(
        name == statement.chunk.filename and first <= line <= last + statement.chunk.skipped for name, line in lines
    )
