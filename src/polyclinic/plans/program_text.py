"""The text of a running program: of a file, or of the cells of a notebook.

A program is its live names (the module's globals) and the top-level statements that ran, in the order in which they
ran. For a notebook these come from the cells as they were executed, so that the latest version of a name wins.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import linecache
import os
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any

from polyclinic.errors import PlanSourceError
from polyclinic.plans.free_names import always_binds, bound_names, changed_names

# Cell magics that run their cell in the notebook's own namespace.
_TRANSPARENT_MAGICS = {"time", "timeit", "capture", "prun"}


@dataclass(frozen=True, eq=False)
class Chunk:
    """One file or one notebook cell.

    Attributes:
        label: what a reader knows it by: ``plan.py`` or ``cell In[3]``.
        filename: what its code objects carry.
        skipped: lines before the text begins (a cell's magic).
    """

    label: str
    filename: str
    text: str
    skipped: int = 0

    @cached_property
    def tree(self) -> ast.Module:
        try:
            return ast.parse(self.text)
        except SystemError:
            # Python 3.11 counts how deep it is over all threads, and stumbles if another one parses meanwhile.
            return ast.parse(self.text)

    @cached_property
    def lines(self) -> list[str]:
        # As Python counts them: str.splitlines would also split at form feeds and the like.
        return self.text.split("\n")

    def place(self, line: int) -> str:
        """Where a line is, as a reader would look for it: ``plan.py:12``, or ``cell In[3], line 12``."""
        line += self.skipped
        return f"{self.label}, line {line}" if self.label.startswith("cell ") else f"{self.label}:{line}"


@dataclass(frozen=True, eq=False)
class Statement:
    """One statement and where it stands."""

    chunk: Chunk
    node: ast.stmt

    @cached_property
    def binds(self) -> frozenset[str]:
        return frozenset(bound_names([self.node]))

    @cached_property
    def changes(self) -> frozenset[str]:
        return frozenset(changed_names(self.node))

    @property
    def place(self) -> str:
        return self.chunk.place(self.node.lineno)

    def place_of(self, name: str) -> str:
        """Where the statement first mentions a name."""
        lines = [
            part.lineno
            for part in ast.walk(self.node)
            if (isinstance(part, ast.Name) and part.id == name) or (isinstance(part, ast.Global) and name in part.names)
        ]
        return self.chunk.place(min(lines, default=self.node.lineno))

    @property
    def text(self) -> str:
        """The statement as it was written, with its comments, moved to the left margin."""
        first = min([self.node.lineno, *(d.lineno for d in getattr(self.node, "decorator_list", []))])
        last = self.node.end_lineno or self.node.lineno
        lines = self.chunk.lines
        before = lines[first - 1].encode()[: self.node.col_offset].decode() if first == self.node.lineno else ""
        after = lines[last - 1].encode()[self.node.end_col_offset :].decode().strip()
        if before.strip() or (after and not after.startswith("#")):
            return ast.get_source_segment(self.chunk.text, self.node) or ast.unparse(self.node)
        while first > 1 and _is_comment_of_its_own(lines[first - 2], indent=self.node.col_offset):
            first -= 1
        return self._at_margin("\n".join(line.rstrip("\r") for line in lines[first - 1 : last]))

    def _at_margin(self, text: str) -> str:
        if not text.startswith((" ", "\t")):
            return text
        moved = textwrap.dedent(text)
        try:
            if ast.dump(ast.parse(moved).body[0]) == ast.dump(self.node):
                return moved
        except SyntaxError:
            pass
        # Moving it would change the inside of a string that goes over several lines.
        return "if True:  # kept as indented as it was written\n" + text


def text_of(making: Iterable[Statement]) -> str:
    """The statements one below the other. A conditional statement that ran twice, in a notebook, counts once."""
    texts: list[str] = []
    for statement in making:
        if not (isinstance(statement.node, ast.If | ast.Try) and statement.text in texts):
            texts.append(statement.text)
    return "\n".join(texts)


@dataclass(eq=False)
class Program:
    """A module: its live names and its text.

    Attributes:
        label: ``plan.py``, or ``a notebook``.
        module: the module's name.
        values: the live globals.
    """

    label: str
    module: str
    values: Mapping[str, Any]
    chunks: list[Chunk]

    @cached_property
    def statements(self) -> list[Statement]:
        return [
            Statement(chunk, node)
            for chunk in self.chunks
            for node in _unfolded(chunk.tree.body, self.module == "__main__")
        ]

    @cached_property
    def lazy_annotations(self) -> bool:
        return any(_is_future_annotations(s.node) for s in self.statements)

    def making_of(self, name: str) -> list[Statement]:
        """The statements that made the value which a name has now: the last one that surely set it, and what
        changed it afterwards. Empty where no statement does."""
        touching = [s for s in self._touching.get(name, []) if not _is_future_annotations(s.node)]
        start = max((i for i, s in enumerate(touching) if always_binds(s.node, name)), default=0)
        making = touching[start:]
        if making and isinstance(making[0].node, ast.Import | ast.ImportFrom):
            # What a program sets inside of a library (os.environ["X"] = "1") is not a part of importing it.
            making = [s for s in making if name in s.binds]
        return making if any(name in s.binds for s in making) else []

    def absolute(self, node: ast.ImportFrom) -> str:
        """The full name of the module that a from-import is of."""
        if not node.level:
            return node.module or ""
        package = self.values.get("__package__") or self.module.rpartition(".")[0]
        return importlib.util.resolve_name("." * node.level + (node.module or ""), package)

    @cached_property
    def _touching(self) -> dict[str, list[Statement]]:
        index: dict[str, list[Statement]] = {}
        for statement in self.statements:
            for name in sorted(statement.binds | statement.changes):
                index.setdefault(name, []).append(statement)
        return index


class Programs:
    """The programs of loose modules, each read once."""

    def __init__(self) -> None:
        self._programs: dict[str, Program] = {}

    def of(self, name: str, at: str = "") -> Program:
        """The program of a module that was imported. Raises PlanSourceError where it has no text."""
        if name not in self._programs:
            module = sys.modules.get(name)
            if module is None:
                raise PlanSourceError(
                    f"the loose module {name!r} is not loaded any more", to_do="import it anew", at=at
                )
            self._programs[name] = program_of(vars(module), name)
        return self._programs[name]


def program_of_class(cls: type) -> Program:
    """The program that a class was defined in. Raises PlanSourceError where its text was not kept."""
    code_of = next(functions_of(cls), None)
    module = sys.modules.get(cls.__module__)
    # The methods know best: a module may be loaded without being registered, or be replaced since.
    values = code_of.__globals__ if code_of else vars(module) if module else {}
    filename = code_of.__code__.co_filename if code_of else str(values.get("__file__", ""))
    return program_of(values, cls.__module__, filename, what=f"class {cls.__name__}")


def program_of(values: Mapping[str, Any], module: str, filename: str = "", *, what: str = "") -> Program:
    """The program with these live globals.

    Args:
        filename: where its code says that it comes from, if known.
        what: what is looked for, for the error.
    """
    shell = _notebook_shell()
    if shell is not None and (values is shell.user_ns or values is shell.user_global_ns):
        return Program("a notebook", module, values, _cells(shell, filename))
    path = filename if filename and not filename.startswith("<") else str(values.get("__file__") or "")
    if filename.startswith("<") and linecache.getlines(filename):
        path = filename
    linecache.checkcache(path)
    text = "".join(linecache.getlines(path, dict(values)))
    if not text:
        raise PlanSourceError(
            f"the text of {what or f'module {module}'} was not kept",
            to_do="define it in a file or in a notebook cell, not at the prompt, with python -c or with exec",
            module=module,
        )
    chunk = Chunk(_short(path), path, text)
    try:
        _ = chunk.tree
    except SyntaxError as err:
        raise PlanSourceError(
            f"{chunk.label} cannot be read as Python: {err.msg}",
            to_do="it was changed since the program started; mend it and start again",
            at=chunk.place(err.lineno or 1),
        ) from err
    file = Path(path)
    label = f"{file.parent.name}/{file.name}" if file.name == "__init__.py" else file.name
    return Program(label, module, values, [chunk])


def functions_of(cls: type) -> Iterator[FunctionType]:
    """The functions written in a class body, without those that a decorator made up."""
    for value in vars(cls).values():
        inner = value.__func__ if isinstance(value, staticmethod | classmethod) else value
        inner = inner.fget if isinstance(inner, property) else inner
        function = inspect.unwrap(inner) if callable(inner) else inner
        if not isinstance(function, FunctionType) or function.__module__ != cls.__module__:
            continue
        filename = function.__code__.co_filename
        if not filename.startswith("<") or linecache.getlines(filename):
            yield function


def _cells(shell: Any, filename: str) -> list[Chunk]:
    """The executed cells of a notebook, magics already turned into calls by IPython."""
    files: dict[str, str] = {}
    for name, entry in list(linecache.cache.items()):
        if len(entry) == 4:
            files.setdefault("".join(entry[2]).rstrip("\n"), name)
    cells = []
    for number, text in enumerate(shell.history_manager.input_hist_parsed):
        cells.append(_cell(f"cell In[{number}]", files.get(text.rstrip("\n"), ""), text))
    if filename and all(cell is None or cell.filename != filename for cell in cells):
        # A cell that was run without being put into the history.
        cells.append(_cell("cell without a number", filename, "".join(linecache.getlines(filename))))
    return [cell for cell in cells if cell is not None and cell.text.strip()]


def _cell(label: str, filename: str, text: str) -> Chunk | None:
    chunk = Chunk(label, filename, text)
    try:
        body = chunk.tree.body
        match body:
            case [ast.Expr(value=ast.Call(func=ast.Attribute(attr="run_cell_magic"), args=[magic, _, inner]))]:
                if _constant(magic) in _TRANSPARENT_MAGICS:
                    chunk = Chunk(label, filename, str(_constant(inner)), skipped=1)
                    _ = chunk.tree
    except SyntaxError:
        # A cell that never ran.
        return None
    return chunk


def _constant(node: ast.expr) -> Any:
    return node.value if isinstance(node, ast.Constant) else None


def _notebook_shell() -> Any:
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython is not None else None


def _unfolded(body: list[ast.stmt], is_main: bool) -> Iterator[ast.stmt]:
    """The top-level statements; what stands under ``if __name__ == "__main__":`` counts if it ran."""
    for node in body:
        if isinstance(node, ast.If) and ast.unparse(node.test) in _MAIN_TESTS:
            yield from node.body if is_main else node.orelse
        else:
            yield node


_MAIN_TESTS = ("__name__ == '__main__'", "'__main__' == __name__")


def _is_future_annotations(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _is_comment_of_its_own(line: str, indent: int) -> bool:
    bare = line.lstrip()
    markers = ("#!", "# %%", "#%%", "# -*-", "# coding", "# In[")
    return bare.startswith("#") and len(line) - len(bare) == indent and not bare.startswith(markers)


def _short(path: str) -> str:
    """A path as one would type it here."""
    try:
        relative = os.path.relpath(path)
    except ValueError:
        return path
    return path if relative.startswith("..") or path.startswith("<") else relative
