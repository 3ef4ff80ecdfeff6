"""The versions of everything that an experiment's result depends on."""

from __future__ import annotations

import importlib.metadata
import platform

_PACKAGES = ("polyclinic", "torch", "numpy", "scikit-learn", "scipy", "pandas", "monai")


def versions() -> dict[str, str]:
    """Python, the system, and the packages that are installed of those that matter."""
    found = {"python": platform.python_version(), "system": platform.platform()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
