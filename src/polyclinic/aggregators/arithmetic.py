"""What all rules do with an update's tensors: check that they fit, and turn them to float64 and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from polyclinic.errors import AggregationError


def check_fits(node_id: str, tensors: Mapping[str, torch.Tensor], begin: Mapping[str, torch.Tensor]) -> None:
    """Checks that a node sent the tensors of the model the round began with, in their shapes and dtypes.

    Raises:
        AggregationError: naming the node and the tensor.
    """
    if odd := sorted(tensors.keys() ^ begin.keys()):
        raise AggregationError(
            f"node {node_id} sent other tensors than the model has: {', '.join(odd[:5])}",
            to_do="the plan must build the same model at every node",
        )
    for name, expected in begin.items():
        sent = tensors[name]
        if sent.shape != expected.shape or sent.dtype != expected.dtype:
            raise AggregationError(
                f"node {node_id} sent tensor {name!r} as {sent.dtype} {tuple(sent.shape)}, "
                f"the model has {expected.dtype} {tuple(expected.shape)}",
                to_do="the plan must build the same model at every node",
            )


def flat(values: torch.Tensor, begin: torch.Tensor) -> torch.Tensor:
    """The values in one dimension; those of integers and booleans as int64 differences from ``begin``.

    So a value that all nodes agree on comes out of a mean exactly, however large, as long as it moved by less than
    2^52 / nodes in the round. Differences of uint64 wrap around, which `unflat` undoes.
    """
    values = values.detach().reshape(-1).cpu()
    if not values.is_floating_point():
        values = values.to(torch.int64) - begin.reshape(-1).to(torch.int64)
    return values


def unflat(result: torch.Tensor, begin: torch.Tensor) -> torch.Tensor:
    """A float64 result over `flat` values, in the dtype and shape of ``begin``; integers are rounded, ties to even."""
    if not begin.is_floating_point():
        result = begin.reshape(-1).to(torch.int64) + result.round().to(torch.int64)
    return result.to(begin.dtype).reshape(begin.shape)
