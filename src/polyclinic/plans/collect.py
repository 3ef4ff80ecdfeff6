"""Gathers all that a plan class needs from its program, name by name.

Names keep the names that they have in their own programs, so the text reads like the original. A loose module that is
used through its name (``import mynet``, ``mynet.Net``) becomes a ``SimpleNamespace`` of what is used of it.
"""

from __future__ import annotations

import ast
import builtins
import copy
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType

from polyclinic.errors import PlanSourceError, during
from polyclinic.plans.constants import MAX_LITERAL_CHARS, has_call, literal_text, live_state
from polyclinic.plans.free_names import Definition, Use, attribute_chains, uses, walk_early
from polyclinic.plans.installed import is_installed
from polyclinic.plans.plan_text import Import, Key, Piece
from polyclinic.plans.program_text import Program, Programs, Statement, text_of
from polyclinic.plans.refusals import (
    refuse_global_statements,
    refuse_local_imports,
    refuse_what_cannot_run_again,
    refuse_what_is_only_here,
    refuse_what_was_filled_unseen,
)

_NOTEBOOK_MODULES = {"IPython", "ipywidgets", "google.colab"}
_MODULE_NAMES = {"__name__", "__doc__", "__debug__", "__builtins__"}


class Collector:
    """What was gathered so far: pieces (dependencies before what uses them) and imports.

    Args:
        provided: names that hand-written import lines give.
    """

    def __init__(self, provided: Iterable[str] = ()) -> None:
        self.pieces: dict[Key, Piece] = {}
        self.imports: set[Import] = set()
        self.lazy_annotations = False
        self._provided = frozenset(provided)
        self._started: set[Key] = set()
        self._reached: dict[Key, dict[tuple[str, ...], Key | None]] = {}
        self._owners: dict[str, tuple[Key, str]] = {}
        self._programs = Programs()

    # Names

    def take(self, program: Program, name: str, user: Statement | None = None) -> Key | None:
        """Takes along what a name stands for in a program. Returns the piece, None for an import."""
        making = program.making_of(name)
        at = user.place_of(name) if user else program.label
        if name not in program.values:
            raise PlanSourceError(
                f"{name!r} is not defined",
                to_do=f"define or import {name} at the top level of {program.label} and run that before",
                at=at,
            )
        if not making:
            return self._take_without_statement(program, name, at)
        last = making[-1].node
        if isinstance(last, ast.Import | ast.ImportFrom):
            return self._take_import(program, name, making[-1], user)
        if isinstance(making[0].node, Definition):
            return self._take_statements(program, name, making)
        return self._take_constant(program, name, making)

    def take_class(self, program: Program, making: list[Statement], enclosing: Mapping[str, str]) -> Key:
        """Takes along the plan class itself.

        Args:
            enclosing: the local variables of the functions that the class stands in, and which function has them.
        """
        node = making[0].node
        assert isinstance(node, ast.ClassDef)
        return self._take_statements(program, node.name, making, enclosing)

    def _take_without_statement(self, program: Program, name: str, at: str) -> Key | None:
        for statement in reversed(program.statements):
            match statement.node:
                case ast.ImportFrom(names=[ast.alias(name="*")]) as node:
                    module = program.absolute(node)
                    source = sys.modules.get(module)
                    if source is None or getattr(source, name, None) is not program.values[name]:
                        continue
                    if not is_installed(module):
                        return self.take(self._programs.of(module), name)
                    self._add_import(Import(module, name), statement.place)
                    return None
        text = literal_text(program.values[name])
        if text is None:
            raise PlanSourceError(
                f"no statement at the top level of {program.label} defines {name!r}",
                to_do=f"define {name} in one statement at the top level, or make it in the plan's __init__",
                at=at,
            )
        return self._add_literal(program, name, text, at)

    # Imports

    def _take_import(self, program: Program, name: str, statement: Statement, user: Statement | None) -> Key | None:
        node = statement.node
        if isinstance(node, ast.ImportFrom):
            alias = next(a for a in node.names if (a.asname or a.name) == name)
            module = program.absolute(node)
            value = program.values[name]
            if isinstance(value, ModuleType) and not is_installed(value.__name__):
                return self._take_module(program, name, value, user)
            if not is_installed(module):
                return self._take_from_loose(program, name, module, alias.name, statement)
            self._add_import(Import(module, alias.name, name if name != alias.name else ""), statement.place)
            return None
        assert isinstance(node, ast.Import)
        alias = next(a for a in node.names if (a.asname or a.name.partition(".")[0]) == name)
        if not is_installed(alias.name):
            return self._take_module(program, name, program.values[name], user)
        if alias.asname:
            self._add_import(Import(alias.name, "", alias.asname), statement.place)
            return None
        for module in _plain_imports(program, name, user):
            self._add_import(Import(module), statement.place)
        return None

    def _add_import(self, entry: Import, place: str) -> None:
        top = entry.module.partition(".")[0]
        if top in _NOTEBOOK_MODULES or entry.module in _NOTEBOOK_MODULES:
            raise PlanSourceError(
                f"{entry.gives!r} from {entry.module} belongs to the notebook; nodes do not have it",
                to_do="leave it out of the plan, and show things outside of it",
                at=place,
            )
        # Several `import a.b` share the name `a` and do not clash.
        key = ("import", entry.module, entry.name) if entry.name or entry.alias else ("import", top)
        self._claim(entry.gives, key, place)
        self.imports.add(entry)

    def _take_from_loose(
        self, program: Program, name: str, module: str, original: str, statement: Statement
    ) -> Key | None:
        target = self.take(self._programs.of(module, statement.place), original)
        if name == original:
            return target
        key = ("alias", program.module, name)
        if key not in self._started:
            self._claim(name, key, statement.place)
            early = {target} if target is not None else set()
            self._finish(key, Piece(frozenset([name]), f"{name} = {original}", program.label, early=early))
        return key

    def _take_module(self, program: Program, name: str, module: ModuleType, user: Statement | None) -> Key:
        """A loose module becomes a namespace of what is used of it."""
        key = ("module", name, module.__name__)
        at = user.place_of(name) if user else program.label
        self._claim(name, key, at)
        self._add_import(Import("types", "SimpleNamespace"), at)
        self._started.add(key)
        for chain in sorted(attribute_chains([user.node], name) if user else ()) or [()]:
            inner, path = _innermost_loose(module, chain)
            if len(path) == len(chain):
                raise PlanSourceError(
                    f"the module {inner.__name__!r} is a loose file that is used as a whole; that cannot travel",
                    to_do=f"name what the plan uses of it: from {inner.__name__} import …",
                    at=at,
                )
            wanted = chain[len(path)]
            with during(used_by=f"{'.'.join((name, *chain))} at {at}"):
                target = self.take(self._programs.of(inner.__name__, at), wanted)
            reached = {**self._reached.get(key, {}), (*path, wanted): target}
            self._reached[key] = reached
            text = f"{name} = {_namespace_text(reached)}"
            early = {target for target in reached.values() if target is not None}
            self.pieces[key] = Piece(frozenset([name]), text, program.label, early=early)
        return key

    # Statements

    def _take_constant(self, program: Program, name: str, making: list[Statement]) -> Key:
        value = program.values[name]
        text = literal_text(value)
        if text is None:
            if state := live_state(value):
                raise PlanSourceError(
                    f"{name!r} is {state}; it cannot travel to the nodes",
                    to_do="make it in the plan's __init__ instead",
                    at=making[-1].place,
                )
            refuse_what_was_filled_unseen(name, value, making)
            return self._take_statements(program, name, making)
        # The value is what counts. It is written by its statement where that surely gives the same value again.
        if self._gives_again(program, name, making, text):
            try:
                with self._undone_on_error():
                    return self._take_statements(program, name, making)
            except PlanSourceError:
                pass
        return self._add_literal(program, name, text, making[-1].place)

    def _gives_again(self, program: Program, name: str, making: list[Statement], text: str) -> bool:
        # What a loop, a `with` or a change in place came to is better said by its result.
        rebinding = ast.Assign | ast.AnnAssign | ast.If | ast.Try
        if any(s.changes or not isinstance(s.node, rebinding) for s in making):
            return False
        conditional = any(isinstance(s.node, ast.If | ast.Try) for s in making)
        if conditional or has_call(part for s in making for part in walk_early(s.node)):
            return True
        scope = dict(program.values)
        try:
            # Names, literals and operators only: this changes nothing.
            for statement in making:
                exec(compile(ast.Module([_without_annotation(statement.node)], []), "<constant>", "exec"), scope)
        except Exception:
            return False
        return literal_text(scope.get(name)) == text

    def _add_literal(self, program: Program, name: str, text: str, at: str) -> Key:
        if len(text) > MAX_LITERAL_CHARS:
            raise PlanSourceError(
                f"{name!r} would be {len(text):,} characters of text; a plan is meant to be read",
                to_do="hand it over in model_args, or have the nodes read it from their data",
                at=at,
            )
        key = ("value", program.module, name)
        if key not in self._started:
            self._claim(name, key, at)
            self._finish(key, Piece(frozenset([name]), f"{name} = {text}", program.label))
        return key

    def _take_statements(
        self, program: Program, name: str, making: list[Statement], enclosing: Mapping[str, str] | None = None
    ) -> Key:
        key = ("statement", program.module, making[-1].chunk.label, making[-1].node.lineno, making[-1].node.col_offset)
        if key in self._started:
            return key
        nodes = [s.node for s in making]
        names = frozenset().union(*(s.binds for s in making)) | {name}
        for bound in sorted(names):
            self._claim(bound, ("name", program.module, bound), making[0].place)
        refuse_global_statements(name, making)
        refuse_local_imports(name, making, program)
        self.lazy_annotations |= program.lazy_annotations
        piece = Piece(names, text_of(making), program.label, isinstance(nodes[0], Definition))
        self._started.add(key)
        with during(used_by=f"{name} at {making[0].place}"):
            for use in uses(nodes, lazy_annotations=program.lazy_annotations):
                for user in [s for s in making if _mentions(s.node, use.name)] or making[:1]:
                    target = self._take_use(program, use, user, enclosing or {})
                    if target is not None:
                        (piece.early if use.early else piece.late).add(target)
        refuse_what_cannot_run_again(self._programs, program, name, making)
        self._finish(key, piece)
        return key

    def _take_use(self, program: Program, use: Use, user: Statement, enclosing: Mapping[str, str]) -> Key | None:
        name = use.name
        if name in enclosing:
            raise PlanSourceError(
                f"{name!r} is a local variable of {enclosing[name]}(); it cannot travel to the nodes",
                to_do=f"move {name} to the top level, or hand it over in model_args",
                at=user.place_of(name),
            )
        if not program.making_of(name):
            refuse_what_is_only_here(name, program, user)
            known = name in _MODULE_NAMES or hasattr(builtins, name) or name in self._provided
            if name in _MODULE_NAMES or (known and name not in program.values):
                return None
        if not use.optional:
            return self.take(program, name, user)
        try:
            with self._undone_on_error():
                return self.take(program, name, user)
        except PlanSourceError:
            return None

    # Bookkeeping

    def _claim(self, name: str, key: Key, place: str) -> None:
        owner, other = self._owners.setdefault(name, (key, place))
        if owner != key:
            raise PlanSourceError(
                f"two different things are called {name!r}: at {other} and at {place}; they need one text",
                to_do="rename one of them",
                at=place,
            )

    def _finish(self, key: Key, piece: Piece) -> None:
        self._started.add(key)
        self.pieces[key] = piece

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        before = {name: copy.copy(value) for name, value in vars(self).items() if not name.startswith("_programs")}
        try:
            yield
        except PlanSourceError:
            vars(self).update(before)
            raise


def _innermost_loose(module: ModuleType, chain: tuple[str, ...]) -> tuple[ModuleType, tuple[str, ...]]:
    """The last loose module on the way along a chain of attributes, and the way to it."""
    inner = module
    for position, step in enumerate(chain):
        value = getattr(inner, step, None)
        if not isinstance(value, ModuleType) or is_installed(value.__name__):
            return inner, chain[:position]
        inner = value
    return inner, chain


def _namespace_text(reached: Mapping[tuple[str, ...], Key | None]) -> str:
    """``SimpleNamespace(Net=Net, losses=SimpleNamespace(dice=dice))``"""
    members = []
    for step in sorted({path[0] for path in reached}):
        inside = {path[1:]: target for path, target in reached.items() if path[0] == step and len(path) > 1}
        members.append(f"{step}={_namespace_text(inside) if inside else step}")
    return f"SimpleNamespace({', '.join(members)})"


def _plain_imports(program: Program, name: str, user: Statement | None) -> list[str]:
    """The modules of ``import a``, ``import a.b`` that are needed for what is reached through ``a``."""
    modules = [
        alias.name
        for statement in program.statements
        if isinstance(statement.node, ast.Import)
        for alias in statement.node.names
        if not alias.asname and alias.name.partition(".")[0] == name
    ]
    reached = attribute_chains([user.node], name) if user else {()}
    paths = [".".join((name, *chain)) + "." for chain in reached]
    used = {m for m in modules if any(path.startswith(m + ".") for path in paths)}
    return sorted(used) or sorted(set(modules))


def _mentions(node: ast.AST, name: str) -> bool:
    return any(isinstance(part, ast.Name) and part.id == name for part in ast.walk(node))


def _without_annotation(node: ast.stmt) -> ast.stmt:
    if isinstance(node, ast.AnnAssign) and node.value is not None:
        return ast.copy_location(ast.Assign([node.target], node.value), node)
    return node
