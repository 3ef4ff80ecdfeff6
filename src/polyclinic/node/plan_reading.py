"""Help for the person who reads a plan before saying yes to it. Help, and no protection: the sandbox protects.

Whoever wants to hide something from these remarks can; they point a reader at places that an honest plan seldom has.
"""

from __future__ import annotations

import ast
import difflib
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

_MODULES = {
    "the network": (
        "aiohttp asyncio boto3 botocore ftplib grpc http httpx huggingface_hub imaplib mlflow nats paramiko poplib "
        "requests smtplib socket socketserver ssl telnetlib torch.distributed torch.hub urllib urllib3 wandb websocket "
        "websockets xmlrpc"
    ),
    "files": (
        "fileinput glob h5py io joblib mmap os pathlib pickle shelve shutil sqlite3 tarfile tempfile zipfile "
        "torch.serialization"
    ),
    "other processes and threads": "concurrent multiprocessing pty resource signal subprocess sys threading",
    "code made or found while it runs": (
        "builtins cloudpickle code codeop dill gc importlib inspect marshal pkgutil runpy types "
        "torch.utils.cpp_extension"
    ),
    "memory past Python's rules": "cffi ctypes faulthandler",
}
_ABOUT = {module: about for about, modules in _MODULES.items() for module in modules.split()}
_NAMES = {
    "eval": "runs a text as code",
    "exec": "runs a text as code",
    "__import__": "imports a module by a name made while it runs",
}
_CALLS = {
    "compile": "makes code of a text",
    "open": "opens a file",
    "input": "waits for input",
    "breakpoint": "stops in a debugger",
    "globals": "reaches names by text",
    "locals": "reaches names by text",
    "vars": "reaches attributes by text",
}
_BY_NAME = frozenset({"getattr", "setattr", "delattr", "hasattr", "attrgetter", "methodcaller"})
_WRITES = frozenset(
    {"dump", "save", "savetxt", "savez", "savez_compressed", "tofile", "to_csv", "to_file", "to_hdf", "to_json"}
    | {"to_parquet", "to_pickle", "to_sql", "unlink", "write", "write_bytes", "write_text", "writelines"}
)
_READS = frozenset({"fromfile", "genfromtxt", "load", "loadtxt", "memmap", "read_bytes", "read_csv", "read_text"})
_ORDINARY_DUNDERS = frozenset({"__init__", "__name__", "__call__", "__len__", "__getitem__", "__setitem__", "__doc__"})

# Letters and marks that are seen as nothing, besides those whose category says so.
_BLANKS = frozenset({0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0xFE00, 0xFE10)})
_LONG = 2000


@dataclass(frozen=True, order=True)
class Remark:
    """Something worth a look.

    Args:
        line: counted from 1.
    """

    line: int
    what: str


def remarks(text: str) -> list[Remark]:
    """What a plan does that training seldom needs (network, files, processes, code made at run time), and what a
    reader does not see, by line."""
    found = set(_unseen(text))
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as err:
        where = getattr(err, "lineno", None) or 1
        return sorted(found | {Remark(where, "is not Python from here on; a node would not run it")})
    for node in ast.walk(tree):
        found |= {Remark(getattr(node, "lineno", 1), what) for what in _of_node(node)}
    return sorted(found)


def imports(text: str) -> list[str]:
    """The modules that a plan imports, anywhere in it, sorted; nothing of a text that is not Python."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return sorted({module.removesuffix(".*") for node in ast.walk(tree) for module in _imported(node)})


def shown(text: str) -> str:
    """The text with each character that is not seen, or changes what is seen of others, as ``⟦U+202E⟧``."""
    return "".join(f"⟦U+{ord(c):04X}⟧" if _is_unseen(c) else c for c in text)


def difference(before: str, after: str) -> list[str]:
    """The lines of a unified difference, as they can be shown."""
    lines = difflib.unified_diff(
        shown(before).split("\n"), shown(after).split("\n"), "approved before", "this one", lineterm="", n=3
    )
    return list(lines)


def _of_node(node: ast.AST) -> Iterator[str]:
    for module in _imported(node):
        if about := _about(module):
            yield f"imports {shown(module)}, which is about {about}"
        if module.endswith(".*"):
            yield f"imports all names of {shown(module[:-2])}, whatever they are"
    match node:
        case ast.Name(id=name) if name in _NAMES:
            yield f"{name} {_NAMES[name]}"
        case ast.Call(func=ast.Name(id=name), args=args):
            if name in _CALLS:
                yield f"{name}() {_CALLS[name]}"
            elif name in _BY_NAME and not (len(args) > 1 and isinstance(args[1], ast.Constant)):
                yield f"{name}() with a name that is made while it runs"
        case ast.Call(func=ast.Attribute(attr=name)) if name in _WRITES:
            yield f".{name}() often writes a file"
        case ast.Call(func=ast.Attribute(attr=name)) if name in _READS:
            yield f".{name}() often reads a file"
        case ast.Attribute(attr=name) | ast.Name(id=name) if _is_inner(name):
            yield f"{shown(name)} reaches into Python's own workings"
        case ast.Constant(value=str() | bytes() as value) if len(value) > _LONG:
            yield f"a text of {len(value)} characters: data, or code, may lie in it"
        case ast.Constant(value=str(value)) if _is_inner(value):
            yield f"the text {shown(value)!r} names Python's own workings"
        case ast.Global() | ast.Nonlocal():
            yield "changes variables of other places"


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        module = "." * node.level + (node.module or "")
        # torch.hub may be written as either: import torch.hub, or from torch import hub.
        inner = [f"{module}.{alias.name}" for alias in node.names]
        return [module, *(name for name in inner if name in _ABOUT or name.endswith(".*"))]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        name = f"{node.value.id}.{node.attr}"
        return [name] if "." in name and name in _ABOUT else []
    return []


def _about(module: str) -> str:
    parts = module.split(".")
    return next((a for n in range(len(parts), 0, -1) if (a := _ABOUT.get(".".join(parts[:n])))), "")


def _is_inner(name: str) -> bool:
    return name.startswith("__") and name.endswith("__") and len(name) > 4 and name not in _ORDINARY_DUNDERS


def _unseen(text: str) -> Iterator[Remark]:
    for number, line in enumerate(text.split("\n"), 1):
        for character in sorted({c for c in line if _is_unseen(c)}):
            name = unicodedata.name(character, "without a name")
            yield Remark(number, f"holds the character U+{ord(character):04X} ({name}), which is not seen as it works")
        if len(line) > _LONG:
            yield Remark(number, f"is {len(line)} characters long: look at its end too")
        if not line.isascii() and any(_is_odd_name(word) for word in _words(line)):
            yield Remark(number, "has a name with letters that may look like others")


def _words(line: str) -> Iterator[str]:
    """The names in a line, outside of comments and quotes as far as that is seen from one line."""
    bare = line.partition("#")[0]
    for quote in ('"', "'"):
        bare = " ".join(bare.split(quote)[::2])
    yield from "".join(c if c.isalnum() or c == "_" else " " for c in bare).split()


def _is_odd_name(word: str) -> bool:
    """Whether letters of the Latin alphabet and of others are in one word, as where one letter is exchanged."""
    letters = {unicodedata.name(c, "").partition(" ")[0] for c in word if c.isalpha()}
    return len(letters) > 1 and "LATIN" in letters


def _is_unseen(character: str) -> bool:
    if character in "\n\t" or " " <= character <= "~":
        return False
    category = unicodedata.category(character)
    return (
        category in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp", "Zs")
        or ord(character) in _BLANKS
        or 0xE0100 <= ord(character) <= 0xE01EF
    )
