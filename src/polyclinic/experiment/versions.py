"""The versions of everything that an experiment's result depends on."""

from __future__ import annotations

import importlib.metadata
import platform
from functools import cache

import torch

_PACKAGES = ("polyclinic", "numpy", "scikit-learn", "scipy", "pandas", "monai")


def versions() -> dict[str, str]:
    """Python, the system, and the packages that are installed of those that matter."""
    return dict(_versions())


@cache
def _versions() -> dict[str, str]:
    # torch's own word says which build it is: "2.13.0+cpu".
    found = {"python": platform.python_version(), "system": platform.platform(), "torch": torch.__version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
