"""Which tensors of a plan are meant: by pattern, and under all of their names."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

import torch

from polyclinic.errors import ConfigError, nearest


def matching(patterns: Sequence[str], names: Collection[str]) -> set[str]:
    """The names that fit one of the patterns: a shell pattern over the whole name, or the beginning of a dotted one.

    Raises:
        ConfigError: a pattern fits none; names the nearest.
    """
    found: set[str] = set()
    for pattern in patterns:
        fits = {name for name in names if fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")}
        if not fits:
            raise ConfigError(f"no layer of the plan fits {pattern!r}", to_do=nearest(pattern, names))
        found |= fits
    return found


def with_other_names(names: Collection[str], plan: torch.nn.Module) -> set[str]:
    """The names, and those of the same tensors under other names: layers may share a weight.

    Raises:
        ConfigError: the plan has no such tensor.
    """
    tensors = plan.state_dict(keep_vars=True)
    if odd := sorted(set(names) - tensors.keys()):
        raise ConfigError(f"the plan has no tensor {odd[0]!r} to stay at the nodes", to_do=nearest(odd[0], tensors))
    meant = {id(tensors[name]) for name in names}
    return {name for name, tensor in tensors.items() if id(tensor) in meant}
