"""Which names a piece of program text needs from outside of itself.

Scoping is left to the standard library's ``symtable``: it knows what a comprehension, a class body or a ``global``
statement does to a name. The syntax tree adds what symtable does not say: lines, and what is only an annotation.

*early* is a name that is needed while the statement itself runs (a base class, a decorator, a default, the right side
of an assignment); a name that only a function's body uses is needed later, when the function is called.
"""

from __future__ import annotations

import ast
import copy
import symtable
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

Function = ast.FunctionDef | ast.AsyncFunctionDef
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

# symtable's names for the scopes that look like functions but run at once.
_COMPREHENSIONS = {"listcomp", "setcomp", "dictcomp", "genexpr"}

# Methods that change the object they belong to: calling one at the top level is a part of how the object was made.
_CHANGING_METHODS = {
    "add", "append", "clear", "discard", "eval", "extend", "fit", "insert", "load_state_dict", "pop", "popitem",
    "register", "remove", "reverse", "setdefault", "setLevel", "sort", "train", "update",
}  # fmt: skip


@dataclass(frozen=True)
class Use:
    """A name that a piece of text needs from outside.

    Attributes:
        early: needed while the statement runs, not only when a function of it is called.
        optional: only mentioned in an annotation that is never evaluated; nothing breaks without it.
    """

    name: str
    early: bool
    optional: bool = False


def uses(nodes: Sequence[ast.stmt], *, lazy_annotations: bool) -> list[Use]:
    """The names that these statements need from outside, in the order of their first mention.

    Args:
        lazy_annotations: whether the program says ``from __future__ import annotations``.
    """
    needed, mentioned = _without_unevaluated_annotations(nodes, lazy_annotations)
    early: set[str] = set()
    late: set[str] = set()
    table = symtable.symtable(ast.unparse(ast.Module(needed, [])), "<plan>", "exec")
    _collect_globals(table, early, late, running=True)
    own = bound_names(nodes)
    optional = (mentioned | _class_fallbacks(needed)) - early - late
    order = {name: position for position, name in enumerate(dict.fromkeys(_names_in_order(nodes)))}
    found = sorted((early | late | optional) - own, key=lambda name: (order.get(name, len(order)), name))
    return [Use(name, name in early, name in optional) for name in found]


def globals_set_in_functions(nodes: Sequence[ast.stmt]) -> list[str]:
    """The names that a function of these statements sets through a ``global`` statement."""
    found: set[str] = set()

    def visit(table: symtable.SymbolTable) -> None:
        for symbol in table.get_symbols():
            if symbol.is_declared_global() and (symbol.is_assigned() or symbol.is_imported()):
                found.add(symbol.get_name())
        for child in table.get_children():
            visit(child)

    for child in _table(nodes).get_children():
        visit(child)
    return sorted(found)


def bound_names(nodes: Sequence[ast.stmt]) -> set[str]:
    """The names that these statements give a value to, in the scope they stand in."""
    return {s.get_name() for s in _table(nodes).get_symbols() if s.is_assigned() or s.is_imported()}


def local_names(function: Function) -> set[str]:
    """The parameters and local variables of a function."""
    (table,) = (t for t in _table([function]).get_children() if t.get_name() == function.name)
    return {s.get_name() for s in table.get_symbols() if s.is_local() or s.is_parameter()}


def changed_names(node: ast.stmt) -> set[str]:
    """The names whose objects this statement changes in place: ``TABLE["a"] = 1``, ``NAMES.append("x")``."""
    found: set[str] = set()
    for part in walk_early(node):
        match part:
            case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
                found.add(root_name(part))
            case ast.Expr(value=ast.Call(func=ast.Attribute(attr=method) as callee)):
                if method in _CHANGING_METHODS or (method.endswith("_") and not method.startswith("_")):
                    found.add(root_name(callee))
    return found - {""}


def always_binds(node: ast.stmt, name: str) -> bool:
    """Whether the name surely has a new value after this statement, one that owes nothing to its old value."""
    match node:
        case ast.If():
            return all(any(always_binds(s, name) for s in branch) for branch in (node.body, node.orelse))
        case ast.Try() | ast.TryStar():
            finished = any(always_binds(s, name) for s in [*node.body, *node.orelse, *node.finalbody])
            caught = (any(always_binds(s, name) or isinstance(s, ast.Raise) for s in h.body) for h in node.handlers)
            return finished and all(caught)
        case ast.With():
            return any(always_binds(s, name) for s in node.body) or name in bound_names([node])
        case ast.For() | ast.AsyncFor() | ast.While() | ast.AugAssign() | ast.Expr() | ast.Match():
            return False
    return name in bound_names([node]) and not _reads(node, name)


def walk_early(node: ast.AST) -> Iterator[ast.AST]:
    """The parts of a statement that are evaluated while it runs: everything but the bodies of functions."""
    yield node
    for child in _early_children(node):
        yield from walk_early(child)


def attribute_chains(nodes: Sequence[ast.AST], name: str) -> set[tuple[str, ...]]:
    """What is reached through a name: ``{("nn", "Linear")}`` for ``name.nn.Linear(3, 3)``; ``()`` is the bare name."""
    found: set[tuple[str, ...]] = set()

    def visit(node: ast.AST) -> None:
        chain: list[str] = []
        inner = node
        while isinstance(inner, ast.Attribute):
            chain.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name):
            if inner.id == name:
                found.add(tuple(reversed(chain)))
            return
        for child in ast.iter_child_nodes(inner):
            visit(child)

    for node in nodes:
        visit(node)
    return found


def root_name(node: ast.AST) -> str:
    """``a`` for ``a.b[0].c``; empty where the chain does not start at a name."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def _table(nodes: Sequence[ast.stmt]) -> symtable.SymbolTable:
    return symtable.symtable(ast.unparse(ast.Module(list(nodes), [])), "<plan>", "exec")


def _collect_globals(table: symtable.SymbolTable, early: set[str], late: set[str], *, running: bool) -> None:
    at_top = table.get_type() == "module"
    for symbol in table.get_symbols():
        # Python has scopes and names of its own, such as `.type_params`.
        if (
            symbol.get_name().isidentifier()
            and symbol.is_referenced()
            and (symbol.is_global() or (at_top and not symbol.is_assigned()))
        ):
            (early if running else late).add(symbol.get_name())
    for child in table.get_children():
        called_later = child.get_type() == "function" and child.get_name() not in _COMPREHENSIONS
        _collect_globals(child, early, late, running=running and not called_later)


def _early_children(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, Function):
        yield from node.decorator_list
        yield node.args
        if node.returns:
            yield node.returns
    elif isinstance(node, ast.Lambda):
        yield node.args
    else:
        yield from ast.iter_child_nodes(node)


def _reads(node: ast.stmt, name: str) -> bool:
    return any(isinstance(p, ast.Name) and p.id == name and isinstance(p.ctx, ast.Load) for p in walk_early(node))


def _names_in_order(nodes: Sequence[ast.stmt]) -> Iterator[str]:
    parts = (part for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name))
    for part in sorted(parts, key=lambda p: (p.lineno, p.col_offset)):
        yield part.id


def _class_fallbacks(nodes: Sequence[ast.stmt]) -> set[str]:
    """Names that a class body reads before it sets them: ``width = width`` takes the global one."""
    found: set[str] = set()
    for cls in (part for node in nodes for part in ast.walk(node) if isinstance(part, ast.ClassDef)):
        later = bound_names(cls.body)
        for statement in cls.body:
            found |= {name for name in later if _reads(statement, name)}
            later -= bound_names([statement])
    return found


def _without_unevaluated_annotations(nodes: Sequence[ast.stmt], lazy: bool) -> tuple[list[ast.stmt], set[str]]:
    """The statements without the annotations that never run, and the names that were mentioned in those."""
    stripper = _AnnotationStripper(lazy)
    stripped = [stripper.visit(copy.deepcopy(node)) for node in nodes]
    return stripped, stripper.mentioned


class _AnnotationStripper(ast.NodeTransformer):
    def __init__(self, lazy: bool) -> None:
        self.lazy = lazy
        self.in_function = False
        self.mentioned: set[str] = set()

    def _visit_function(self, node: Function) -> ast.AST:
        outside, self.in_function = self.in_function, True
        node.body = [self.visit(statement) for statement in node.body]
        self.in_function = outside
        node.decorator_list = [self.visit(d) for d in node.decorator_list]
        node.args = self.visit(node.args)
        node.returns = self._annotation(node.returns)
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _visit_function  # noqa: N815  (ast looks for these names)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        # The annotations of a class body are kept by the class, even where the class stands in a function.
        outside, self.in_function = self.in_function, False
        self.generic_visit(node)
        self.in_function = outside
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = self._annotation(node.annotation)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = self._annotation(node.annotation, self.in_function) or ast.Constant(None)
        node.target = self.visit(node.target)
        node.value = self.visit(node.value) if node.value else None
        return node

    def _annotation(self, annotation: ast.expr | None, never_runs: bool = False) -> ast.expr | None:
        if annotation is None:
            return None
        for part in ast.walk(annotation):
            self._mention(part)
        return None if self.lazy or never_runs else annotation

    def _mention(self, part: ast.AST) -> None:
        match part:
            case ast.Name(id=name):
                self.mentioned.add(name)
            case ast.Constant(value=str() as text):
                try:
                    parsed = ast.parse(text.strip(), mode="eval")
                except (SyntaxError, ValueError):
                    return
                self.mentioned |= {p.id for p in ast.walk(parsed) if isinstance(p, ast.Name)}
