"""What leaves the hospital is looked at before it does: exactly what was asked for, and nothing else.

Torch is not needed: the header of the tensors' file is read strictly, and the values are looked at in pieces.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from polyclinic.messages.replies import Reply
from polyclinic.messages.requests import WorkRequest
from polyclinic.node.policy import Policy
from polyclinic.node.registry import RegisteredDataset


@dataclass(frozen=True)
class Left:
    """A tensor that left.

    Args:
        dtype: as in a safetensors file, for example F32.
        bytes: of its data.
        sha256: of its data, hexadecimal.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    sha256: str


def check(
    policy: Policy,
    request: WorkRequest,
    reply: Reply,
    tensors: Path | None,
    *,
    sent: Path | None,
    dataset: RegisteredDataset,
) -> tuple[Reply, tuple[Left, ...]]:
    """Lets a reply leave, without what the policy keeps back.

    Args:
        tensors: the file of the reply's tensors; None: it has none.
        sent: the file of the request's tensors; None: it has none.

    Returns:
        The reply as it may leave, and its tensors.

    Raises:
        LeavingRefused: it is not what was asked for; names and shapes of what is wrong, and never a value.
    """
    raise NotImplementedError
