"""What a node keeps of an experiment from one round to the next: an optimizer's moments, its own buffers.

One file a round, so that an experiment which goes back a round (after a crash) finds what it had then.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from polyclinic import tensors
from polyclinic.errors import MessageError, PlanError

# An experiment goes back by one round at most; one more for safety. These are rounds of the node's own: with some
# aggregators it sits out others in between.
_KEEP = 3


@dataclass(frozen=True)
class Kept:
    """What was kept after ``round``; 0: nothing yet."""

    round: int = 0
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def part(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors under this prefix, without it."""
        start = prefix + "/"
        return {name.removeprefix(start): t for name, t in self.tensors.items() if name.startswith(start)}


class ExperimentState:
    """The states of one experiment in one node's folder.

    Args:
        folder: the experiment's own folder; made at the first save.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, round_index: int, state: Mapping[str, torch.Tensor]) -> None:
        """Keeps the state after this round, atomically, and drops what is too old or of a later round."""
        self._folder.mkdir(parents=True, exist_ok=True)
        target = self._path(round_index)
        temporary = target.with_suffix(".tmp")
        with temporary.open("wb") as file:
            file.writelines(tensors.encode(state))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        kept = [other for other in sorted(self._rounds(), reverse=True) if other <= round_index][:_KEEP]
        for other in self._rounds():
            if other not in kept:
                self._path(other).unlink(missing_ok=True)

    def load(self, before: int) -> Kept | None:
        """The newest state of a round before this one; None if there is none."""
        for round_index in sorted(self._rounds(), reverse=True):
            if round_index < before:
                try:
                    return Kept(round_index, tensors.load_file(self._path(round_index)))
                except MessageError:
                    continue  # damaged: an older one is better than none
        return None

    def forget(self) -> None:
        """Deletes all of the experiment's states."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, round_index: int) -> Path:
        return self._folder / f"round-{round_index:06d}.safetensors"

    def _rounds(self) -> list[int]:
        return [int(path.stem.removeprefix("round-")) for path in self._folder.glob("round-*.safetensors")]


def pack_optimizer(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """An optimizer's state as named tensors: ``<parameter number>/<key>/<type>``.

    Raises:
        PlanError: for an optimizer whose state is not made of tensors and numbers (LBFGS).
    """
    packed = {}
    for number, entries in optimizer.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                packed[f"{number}/{key}/tensor"] = value
            elif isinstance(value, bool | int | float):
                packed[f"{number}/{key}/{type(value).__name__}"] = torch.tensor(value, dtype=torch.float64)
            elif value is not None:
                raise PlanError(
                    f"the state of {type(optimizer).__name__} cannot be kept over rounds",
                    to_do='use optimizer_state="fresh", or another optimizer',
                )
    return packed


def unpack_optimizer(optimizer: torch.optim.Optimizer, packed: Mapping[str, torch.Tensor]) -> None:
    """Puts back what `pack_optimizer` made; hyper-parameters stay as they are."""
    state: dict[int, dict[str, Any]] = {}
    for name, tensor in packed.items():
        number, key, kind = name.split("/")
        value: Any = tensor if kind == "tensor" else tensor.item()
        if kind in ("bool", "int"):
            value = bool(value) if kind == "bool" else int(value)
        state.setdefault(int(number), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
