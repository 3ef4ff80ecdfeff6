"""Whether a module comes with an installation, so that a node can have it too, or is a loose file beside the program.

Installed: the standard library, anything in a site-packages folder, and distributions installed in editable mode.
Everything else that Python can import (a file beside the script, a folder on PYTHONPATH) is loose.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import site
import sys
import sysconfig
from functools import cache
from pathlib import Path


def is_installed(module: str) -> bool:
    """Whether ``module`` (a dotted name) belongs to an installation. A module that cannot be found counts as one:
    this machine may lack what the nodes have."""
    top = module.partition(".")[0]
    # A checkout of ours that is only on PYTHONPATH is still what every node has installed.
    if top in sys.stdlib_module_names or top == "polyclinic":
        return True
    place = _place(top)
    if place is None:
        return True
    if any(part in ("site-packages", "dist-packages") for part in place.parts):
        return True
    if any(place.is_relative_to(folder) for folder in _library_folders()):
        return True
    return place.parent in _editable_folders() or top in _editable_names()


def _place(top: str) -> Path | None:
    """The file or folder of a top-level module; None where there is none (built in, or not found)."""
    module = sys.modules.get(top)
    spec = getattr(module, "__spec__", None)
    if module is None:
        try:
            spec = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return None
    folders = list(getattr(module, "__path__", None) or getattr(spec, "submodule_search_locations", None) or ())
    if folders:
        return Path(folders[0]).resolve()
    file = getattr(module, "__file__", None) or (spec.origin if spec is not None and spec.has_location else None)
    return Path(file).resolve() if file else None


@cache
def _library_folders() -> tuple[Path, ...]:
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    return tuple({Path(sysconfig.get_path(name)).resolve() for name in names} | set(_site_folders()))


@cache
def _site_folders() -> tuple[Path, ...]:
    return tuple(Path(p).resolve() for p in [*site.getsitepackages(), site.getusersitepackages()])


@cache
def _editable_folders() -> frozenset[Path]:
    """The folders that ``.pth`` files put on the path: how most builders install in editable mode."""
    found = set()
    for pth in (file for folder in _site_folders() if folder.is_dir() for file in folder.glob("*.pth")):
        for line in pth.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.strip() and not line.startswith(("import ", "import\t", "#")):
                found.add((pth.parent / line.strip()).resolve())
    return frozenset(found)


@cache
def _editable_names() -> frozenset[str]:
    """Top-level modules of distributions that were installed in editable mode through an import hook."""
    found = set()
    for top, distributions in importlib.metadata.packages_distributions().items():
        for name in distributions:
            origin = importlib.metadata.distribution(name).read_text("direct_url.json")
            if origin and json.loads(origin).get("dir_info", {}).get("editable"):
                found.add(top)
    return frozenset(found)
