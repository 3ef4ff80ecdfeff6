"""What is refused at the researcher, because it could not work, or not mean the same, at a node."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Sequence

from polyclinic.errors import PlanSourceError
from polyclinic.plans.constants import obstacle
from polyclinic.plans.free_names import Function, globals_set_in_functions, walk_early
from polyclinic.plans.installed import is_installed
from polyclinic.plans.program_text import Program, Programs, Statement

_NOTEBOOK_ONLY = {"get_ipython", "display", "In", "Out", "exit", "quit"}


def refuse_what_is_only_here(name: str, program: Program, user: Statement) -> None:
    """Names that the notebook, the prompt or this machine gives, and no statement of the program."""
    if name in _NOTEBOOK_ONLY and (name in program.values or hasattr(builtins, name)):
        raise PlanSourceError(
            f"{name!r} belongs to the notebook or the prompt; nodes do not have it",
            to_do="leave it out of the plan",
            at=user.place_of(name),
        )
    if name == "__file__":
        raise PlanSourceError(
            "'__file__' means a place on this machine; it cannot travel to the nodes",
            to_do="leave it out of the plan; data come from the node's dataset",
            at=user.place_of(name),
        )


def refuse_what_was_filled_unseen(name: str, value: object, making: Sequence[Statement]) -> None:
    """``REGISTRY = {}`` that decorators have filled since: the statement alone would bring an empty one."""
    written: ast.expr | None = getattr(making[0].node, "value", None)
    match written:
        case ast.Dict(values=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
            # `**more` and `*more` bring any number.
            counted = not any(isinstance(p, ast.Starred) for p in parts)
            counted &= not isinstance(written, ast.Dict) or None not in written.keys
        case ast.Call(func=ast.Name(id="dict" | "list" | "set"), args=[], keywords=[]):
            parts, counted = [], True
        case _:
            return
    if len(making) == 1 and counted and isinstance(value, dict | list | set) and len(value) != len(parts):
        raise PlanSourceError(
            f"{name!r} has {len(value)} entries, but {len(parts)} in its statement: something else filled it",
            to_do=f"write all of {name} in one statement",
            at=making[0].place,
        )


def refuse_global_statements(name: str, making: Iterable[Statement]) -> None:
    """State in global variables would be lost between rounds, and shared between the nodes of one process."""
    for statement in making:
        for changed in globals_set_in_functions([statement.node]):
            raise PlanSourceError(
                f"{name!r} sets the global variable {changed!r}; a plan's text has no state of its own at a node",
                to_do=f"keep {changed} as an attribute of the plan (self.{changed})",
                at=statement.place_of(changed),
            )


def refuse_local_imports(name: str, making: Iterable[Statement], program: Program) -> None:
    """An import inside of a function travels as it stands, so it must be of something that a node can have."""
    for statement in making:
        for node in ast.walk(statement.node):
            if isinstance(node, ast.ImportFrom):
                modules = [program.absolute(node)]
                followed = not node.level and is_installed(modules[0])
            elif isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
                followed = all(map(is_installed, modules))
            else:
                continue
            if not followed:
                raise PlanSourceError(
                    f"{name!r} imports {', '.join(modules)} where it cannot be followed",
                    to_do="import it at the top level of the program, by its full name",
                    at=statement.chunk.place(node.lineno),
                )


def refuse_what_cannot_run_again(programs: Programs, program: Program, name: str, making: Iterable[Statement]) -> None:
    """What runs when the text is loaded must not read this machine's files, network, environment or clock."""
    for statement in making:
        parts = list(walk_early(statement.node))
        found = obstacle(parts, lambda n: _meaning(program, n)) or _obstacle_in_called(programs, program, parts, set())
        if found is not None:
            node, reason = found
            raise PlanSourceError(
                f"{name!r} cannot be made again at a node: it {reason}",
                to_do="write the value itself, hand it over in model_args, or make it in the plan's __init__",
                at=statement.chunk.place(getattr(node, "lineno", statement.node.lineno)),
            )


def _obstacle_in_called(
    programs: Programs, program: Program, parts: Iterable[ast.AST], seen: set[tuple[str, str]]
) -> tuple[ast.AST, str] | None:
    """Whether a function of the program's own, called while a statement runs, reads files or the network."""
    for call in parts:
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            continue
        home, function = _function(programs, program, call.func.id)
        if function is None or (home.module, function.name) in seen:
            continue
        seen.add((home.module, function.name))
        inside = [part for statement in function.body for part in walk_early(statement)]
        meaning = {part.id: _meaning(home, part.id) for part in inside if isinstance(part, ast.Name)}
        found = obstacle(inside, meaning.__getitem__, reading_only=True)
        found = found or _obstacle_in_called(programs, home, inside, seen)
        if found is not None:
            return call, f"calls {call.func.id}, which {found[1]}"
    return None


def _function(programs: Programs, program: Program, name: str) -> tuple[Program, Function | None]:
    """The function of the researcher's own that a name stands for, and the program that it is in."""
    making = program.making_of(name)
    node = making[-1].node if making else None
    if isinstance(node, ast.ImportFrom) and not is_installed(module := program.absolute(node)):
        original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
        return _function(programs, programs.of(module), original)
    return program, node if isinstance(node, Function) else None


def _meaning(program: Program, name: str) -> str:
    """The dotted name that an imported or built-in name stands for; the name itself if it is the program's own."""
    making = program.making_of(name)
    node = making[-1].node if making else None
    if isinstance(node, ast.ImportFrom):
        module = program.absolute(node)
        original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
        return f"{module}.{original}" if is_installed(module) else name
    if isinstance(node, ast.Import):
        return next((alias.name for alias in node.names if alias.asname == name), name)
    return f"builtins.{name}" if not making and hasattr(builtins, name) else name
