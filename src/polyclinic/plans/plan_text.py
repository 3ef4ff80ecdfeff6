"""Pieces of program text, put into an order that runs and written as one text."""

from __future__ import annotations

import ast
import graphlib
import heapq
import textwrap
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from polyclinic.errors import PlanSourceError

LINE_LENGTH = 100

Key = Hashable


@dataclass(frozen=True, order=True)
class Import:
    """One imported name: ``from module import name as alias``, or ``import module as alias`` where name is empty."""

    module: str
    name: str = ""
    alias: str = ""

    @property
    def gives(self) -> str:
        return self.alias or self.name or self.module.partition(".")[0]


@dataclass(eq=False)
class Piece:
    """A part of the plan's text.

    Attributes:
        origin: the program it comes from, as a reader knows it.
        definition: a function or class; constants go before these where they can.
        early: what has to stand before it.
        late: what it needs only when it is called.
    """

    names: frozenset[str]
    text: str
    origin: str
    definition: bool = False
    early: set[Key] = field(default_factory=set)
    late: set[Key] = field(default_factory=set)


def in_running_order(pieces: Mapping[Key, Piece]) -> list[Piece]:
    """Every piece after what it needs while it runs; otherwise constants first, and in the order given.

    A function may be called by a piece that needs it early, so what it needs in its turn also goes first, as far as
    that is possible: two things that need each other when called can stand in any order.
    """
    needs = {key: _reachable(pieces, piece.early) - {key} for key, piece in pieces.items()}
    try:
        return _sorted(pieces, needs)
    except graphlib.CycleError:
        pass
    try:
        return _sorted(pieces, {key: piece.early - {key} for key, piece in pieces.items()})
    except graphlib.CycleError as err:
        raise PlanSourceError(
            f"{' and '.join(sorted(set().union(*(pieces[key].names for key in err.args[1]))))} need each other "
            "to be defined; no order of them runs",
            to_do="run the cells anew from the top, or take them apart",
        ) from err


def _sorted(pieces: Mapping[Key, Piece], needs: Mapping[Key, set[Key]]) -> list[Piece]:
    rank = {key: (piece.definition, position) for position, (key, piece) in enumerate(pieces.items())}
    sorter = graphlib.TopologicalSorter({key: needs[key] & pieces.keys() for key in pieces})
    sorter.prepare()
    ready: list[tuple[tuple[bool, int], Key]] = []
    ordered = []
    while sorter.is_active():
        for key in sorter.get_ready():
            heapq.heappush(ready, (rank[key], key))
        _, key = heapq.heappop(ready)
        ordered.append(pieces[key])
        sorter.done(key)
    return ordered


def _reachable(pieces: Mapping[Key, Piece], start: Iterable[Key]) -> set[Key]:
    found: set[Key] = set()
    waiting = list(start)
    while waiting:
        key = waiting.pop()
        if key not in found and key in pieces:
            found.add(key)
            waiting.extend(pieces[key].early | pieces[key].late)
    return found


def write_text(
    header: str, imports: Iterable[Import], pieces: Sequence[Piece], *, main: str, lazy_annotations: bool
) -> str:
    """The whole text. Says where each piece comes from, if it is not the main program."""
    parts = [f"# {header}"]
    if lazy_annotations:
        parts.append("from __future__ import annotations")
    if lines := import_lines(imports):
        parts.append("\n".join(lines))
    text, before = "\n\n".join(parts), Piece(frozenset(), "", main)
    for piece in pieces:
        apart = piece.definition or before.definition
        new_origin = piece.origin != before.origin
        text += "\n\n\n" if apart else "\n\n" if new_origin or not before.text else "\n"
        text += f"# From {piece.origin}:\n{piece.text}" if new_origin else piece.text
        before = piece
    return text + "\n"


def import_lines(imports: Iterable[Import]) -> list[str]:
    """Sorted import statements, one a module, none wider than `LINE_LENGTH` where that can be helped."""
    lines = []
    named: dict[str, list[Import]] = {}
    for entry in sorted(set(imports)):
        if entry.name:
            named.setdefault(entry.module, []).append(entry)
        else:
            lines.append(f"import {entry.module}" + (f" as {entry.alias}" if entry.alias else ""))
    for module, entries in named.items():
        names = [e.name + (f" as {e.alias}" if e.alias else "") for e in entries]
        line = f"from {module} import {', '.join(names)}"
        if len(line) > LINE_LENGTH:
            inside = textwrap.fill(", ".join(names) + ",", LINE_LENGTH - 4, break_long_words=False)
            line = f"from {module} import (\n{textwrap.indent(inside, '    ')}\n)"
        lines.append(line)
    return lines


def imports_of(node: ast.Import | ast.ImportFrom) -> list[Import]:
    """The entries of an import statement without dots in front."""
    if isinstance(node, ast.Import):
        return [Import(alias.name, "", alias.asname or "") for alias in node.names]
    aliases = [(a.name, a.asname if a.asname != a.name else None) for a in node.names]
    return [Import(node.module or "", name, alias or "") for name, alias in aliases]


def with_import_lines(text: str, lines: Sequence[str]) -> str:
    """The text with hand-written import lines added before its own; names that it imports already are left out."""
    tree = ast.parse(text)
    present = {e for s in tree.body if isinstance(s, ast.Import | ast.ImportFrom) for e in imports_of(s)}
    added: list[str] = []
    for line in lines:
        for statement in parse_import_line(line):
            missing = [entry for entry in imports_of(statement) if entry not in present]
            present.update(missing)
            added += import_lines(missing)
    if not added:
        return text
    own = lines_of(text)
    at = _first_statement_line(tree, own)
    return "".join(own[:at]) + "\n".join(added) + "\n" + "".join(own[at:])


def lines_of(text: str) -> list[str]:
    """The lines as Python counts them; `str.splitlines` would also split at form feeds and the like."""
    return [line + "\n" for line in text.removesuffix("\n").split("\n")]


def parse_import_line(line: str) -> list[ast.Import | ast.ImportFrom]:
    """The import statements of a hand-written line. Raises PlanSourceError for anything else."""
    try:
        body = ast.parse(line.strip()).body
    except (SyntaxError, ValueError) as err:
        raise PlanSourceError(
            f"the dependency {line!r} is not Python: {err}", to_do="write a line such as 'import numpy as np'"
        ) from err
    statements = []
    for statement in body:
        if not isinstance(statement, ast.Import | ast.ImportFrom):
            raise PlanSourceError(
                f"the dependency {line!r} is not an import",
                to_do="declare imports only; constants, functions and classes that the plan uses travel by themselves",
            )
        if isinstance(statement, ast.ImportFrom) and (
            statement.level or statement.module == "__future__" or statement.names[0].name == "*"
        ):
            raise PlanSourceError(
                f"the dependency {line!r} cannot stand in a plan's text",
                to_do="import from the module's full name, and name what you import",
            )
        statements.append(statement)
    return statements


def _first_statement_line(tree: ast.Module, lines: Sequence[str]) -> int:
    """Where imports can be put in: before the first statement, and before the comment that belongs to it."""
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            continue
        decorators: list[ast.expr] = getattr(statement, "decorator_list", [])
        at = min([statement.lineno, *(d.lineno for d in decorators)]) - 1
        while at > 0 and lines[at - 1].startswith("#"):
            at -= 1
        return at
    return len(lines)
