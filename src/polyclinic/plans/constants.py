"""Values at module level: as text, and whether the statement that made one can be run again at a node.

A node has what the text brings and what is installed there; it does not have the researcher's files, network,
environment or random draws. So a statement that reads one of these cannot be run again.
"""

from __future__ import annotations

import ast
import io
import math
import sys
from collections.abc import Callable, Iterable
from types import GeneratorType
from typing import Any

# A plan is read by people before it runs; numbers by the thousand belong into a file at the node or into the model.
MAX_LITERAL_CHARS = 20_000

_READING_CALLS = {
    "connect", "from_file", "from_pretrained", "fromfile", "genfromtxt", "getenv", "glob", "imread", "iterdir",
    "listdir", "load", "loadtxt", "open", "read", "read_bytes", "read_text", "readline", "readlines", "scandir",
    "urlopen", "urlretrieve", "walk",
}  # fmt: skip
_NETWORK = {"aiohttp", "ftplib", "http", "httpx", "requests", "smtplib", "socket", "subprocess", "urllib", "urllib3"}
_MACHINE = ("os.environ", "os.getenv", "os.getcwd", "os.getpid", "sys.argv", "platform.", "getpass.",
            "pathlib.Path.cwd", "pathlib.Path.home")  # fmt: skip
_CHANGING = ("random.", "secrets.", "time.", "uuid.uuid", "os.urandom", "numpy.random.", "torch.rand",
             "torch.normal", "torch.bernoulli", "torch.multinomial", "torch.empty")  # fmt: skip
_CLOCKS = {"now", "today", "utcnow"}
# With a seed these give the same numbers everywhere.
_SEEDED = {"numpy.random.default_rng", "numpy.random.RandomState", "random.Random"}
_HIDING = {"eval", "exec", "compile", "globals", "locals", "vars", "__import__", "input", "breakpoint"}


def literal_text(value: object) -> str | None:
    """A plain value as Python text that gives an equal value; None for anything else.

    Plain are int, float, complex, str, bytes, bool, None, and tuples, lists, dicts, sets and frozensets of them, by
    exact type. Sets are sorted by their text, so that the same value gives the same text in every process.
    """
    try:
        return _literal(value)
    except (TypeError, RecursionError):
        return None


def _literal(value: Any) -> str:
    kind = type(value)
    if kind in (bool, str, bytes, type(None)):
        return repr(value)
    if kind is int:
        # Python refuses to write very long decimals.
        return repr(value) if abs(value) < 1 << 64 else hex(value)
    if kind is float:
        return repr(value) if math.isfinite(value) else f'float("{value}")'
    if kind is complex:
        return f"complex({_literal(value.real)}, {_literal(value.imag)})"
    if kind is list:
        return f"[{', '.join(map(_literal, value))}]"
    if kind is tuple:
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    if kind is dict:
        return f"{{{', '.join(f'{_literal(k)}: {_literal(v)}' for k, v in value.items())}}}"
    if kind is set:
        return f"{{{', '.join(sorted(map(_literal, value)))}}}" if value else "set()"
    if kind is frozenset:
        return f"frozenset({_literal(set(value)) if value else ''})"
    raise TypeError(kind)


def has_call(nodes: Iterable[ast.AST]) -> bool:
    return any(isinstance(node, ast.Call | ast.Await) for node in nodes)


def obstacle(
    nodes: Iterable[ast.AST], meaning: Callable[[str], str], *, reading_only: bool = False
) -> tuple[ast.AST, str] | None:
    """The first part that keeps a statement from being run again at a node, and why; None if there is none.

    Args:
        nodes: the parts that are evaluated.
        meaning: the dotted name that a name stands for in the program: ``np`` -> ``numpy``, ``open`` ->
            ``builtins.open``; the name itself where it is the program's own.
        reading_only: only look for files and network; the clock and random numbers are allowed.
    """
    for node in nodes:
        if isinstance(node, ast.Call):
            reason = _call_obstacle(_dotted(node.func, meaning), has_arguments=bool(node.args or node.keywords))
            if reason and not (reading_only and reason.startswith("gives")):
                return node, reason
        elif isinstance(node, ast.Attribute | ast.Name) and not reading_only:
            dotted = _dotted(node, meaning)
            if dotted.startswith(_MACHINE):
                return node, f"uses {dotted}, which is this machine's"
    return None


def _call_obstacle(dotted: str, *, has_arguments: bool) -> str:
    if "." not in dotted:
        # The program's own: what it does is in its text.
        return ""
    top, _, _ = dotted.partition(".")
    last = dotted.rpartition(".")[2]
    if top in _NETWORK:
        return f"calls {dotted}, which needs the network or another program"
    if last in _READING_CALLS or last.startswith(("read_", "load_")):
        return f"calls {dotted.removeprefix('builtins.')}, which reads something that the nodes do not have"
    if top == "builtins" and last in _HIDING:
        return f"calls {last}, which hides what it needs"
    if dotted in _SEEDED and has_arguments:
        return ""
    if dotted.startswith(_CHANGING) or last in _CLOCKS:
        return f"gives another value each time: {dotted}"
    return ""


def _dotted(node: ast.AST, meaning: Callable[[str], str]) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    # `Path("x").read_text`: what it is called on is not a name, the method still says what it does.
    parts.append(meaning(node.id) if isinstance(node, ast.Name) else "…")
    return ".".join(reversed(parts))


def live_state(value: object) -> str:
    """What a value holds that no statement can bring back; empty if nothing is known of."""
    if isinstance(value, io.IOBase):
        return "an open file"
    if isinstance(value, GeneratorType):
        return "a running generator"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.nn.Module):
        count = sum(parameter.numel() for parameter in value.parameters())
        return f"a model with {count:,} numbers of its own" if count else ""
    if torch is not None and isinstance(value, torch.optim.Optimizer):
        return "an optimizer with its state"
    return ""
