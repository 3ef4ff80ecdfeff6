"""Smaller updates: a node sends how its model changed, in fewer bits, and makes up for the loss in its next round.

With w the model that was sent to the node, v the one that it trained, and e what earlier rounds lost (0 at first)::

    change    c = v - w + e
    sent      q = Q(c)
    lost      e = c - q
    received  w + q

``half`` rounds to IEEE binary16. ``int8`` sends ``round(c / s)`` with the scale ``s = max|c| / 127`` of each tensor.
The error feedback e is from Seide et al., 1-Bit Stochastic Gradient Descent, Interspeech 2014; that it restores
convergence: Karimireddy et al., Error Feedback Fixes SignSGD, ICML 2019, arXiv:1901.09847.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch

from polyclinic.errors import AggregationError

Compression = Literal["none", "half", "int8"]
State = dict[str, torch.Tensor]

# A tensor's scale travels under the tensor's name with this behind it.
SCALE = ":scale"
_DTYPES = {"half": torch.float16, "int8": torch.int8}
# What is beyond binary16's range is sent as its end; the rest follows in later rounds, as all that is lost does.
_LARGEST_HALF = torch.finfo(torch.float16).max


def compress(
    how: Compression,
    trained: Mapping[str, torch.Tensor],
    sent: Mapping[str, torch.Tensor],
    lost: Mapping[str, torch.Tensor],
) -> tuple[State, State]:
    """A node's update in fewer bits, and what it loses by that.

    Args:
        trained: the node's model, any shapes. Tensors that are no floating-point numbers, or were not sent to the node,
            stay as they are.
        sent: the model that the node was sent.
        lost: of the round before, by the same names; empty in the first one.

    Returns:
        The update: float16, or int8 with a float32 scalar ``<name>:scale`` for each tensor; and what is lost, float32
        (float64 of float64 tensors), to be given in the next round.
    """
    if how == "none":
        return dict(trained), {}
    update: State = {}
    residual: State = {}
    for name, tensor in trained.items():
        if not _is_compressed(tensor, sent.get(name)):
            update[name] = tensor
            continue
        exact = torch.promote_types(tensor.dtype, torch.float32)
        change = tensor.detach().to(exact) - sent[name].to(exact)
        if name in lost:
            change += lost[name]
        if how == "half":
            update[name] = change.clamp(-_LARGEST_HALF, _LARGEST_HALF).to(torch.float16)
            residual[name] = change - update[name].to(exact)
        else:
            scale = (change.abs().max() / 127).to(torch.float32) if change.numel() else torch.zeros(())
            levels = (change / scale).round_().clamp_(-127, 127) if scale > 0 else torch.zeros_like(change)
            update[name], update[name + SCALE] = levels.to(torch.int8), scale
            residual[name] = change - levels * scale.to(exact)
    return update, residual


def expand(how: Compression, update: Mapping[str, torch.Tensor], sent: Mapping[str, torch.Tensor]) -> State:
    """The node's model, of what `compress` made of it and the model that the node was sent.

    Raises:
        AggregationError: the update is not what `compress` makes.
    """
    if how == "none":
        return dict(update)
    model: State = {}
    for name, tensor in update.items():
        base = sent.get(name)
        if name.endswith(SCALE) and name.removesuffix(SCALE) in update:
            continue
        if base is None or not base.is_floating_point():
            model[name] = tensor
            continue
        if tensor.dtype != _DTYPES[how] or tensor.shape != base.shape:
            raise _unfit(name, f"{tensor.dtype} of shape {tuple(tensor.shape)}")
        exact = torch.promote_types(base.dtype, torch.float32)
        change = tensor.to(exact)
        if how == "int8":
            scale = update.get(name + SCALE)
            if scale is None or scale.numel() != 1 or not scale.is_floating_point():
                raise _unfit(name, "without a scale")
            change *= scale.to(exact).reshape(())
        model[name] = (base.to(exact) + change).to(base.dtype)
    return model


def _is_compressed(tensor: torch.Tensor, sent: torch.Tensor | None) -> bool:
    return sent is not None and tensor.is_floating_point() and sent.shape == tensor.shape


def _unfit(name: str, what: str) -> AggregationError:
    return AggregationError(
        f"tensor {name!r} came {what}, which is no compressed update",
        to_do="look whether the node has the same version of Polyclinic",
    )
