"""Which samples are in which batch, and how batches are loaded.

The order of each pass over a node's data is drawn from a stream of its own, so which samples are in batch number b
depends on the seed and the node alone: a round that is repeated after a crash sees the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

from polyclinic.datasets.table import TableDataset
from polyclinic.errors import ConfigError, TrainingError
from polyclinic.messages.training_args import TrainingArgs
from polyclinic.randomness import derive

# Rows of an in-memory dataset that are gathered at once: small against any model's training memory.
_GATHER_BYTES = 64 << 20


def round_order(
    num_samples: int, args: TrainingArgs, *, round_index: int, seed: int, node_id: str
) -> list[torch.Tensor]:
    """The sample numbers of a round, one int64 tensor for each (part of a) pass.

    With ``epochs``, a round takes that many passes. With ``num_updates``, the round goes on where the last one ended:
    batches are numbered through over all rounds, and a pass has ceil(num_samples / batch_size) of them.

    Raises:
        TrainingError: if there are no samples.
        ConfigError: if a pass has no batch, because drop_last leaves none.
    """
    if not num_samples:
        raise TrainingError(
            "there is nothing to train on: the training dataset is empty",
            to_do="look at what the plan's training_data() leaves of this node's data, or leave the node out",
        )
    size = args.batch_size
    in_pass = _in_pass(num_samples, args)
    if not in_pass:
        raise ConfigError(
            f"batches of {size} with drop_last leave nothing of {num_samples} training samples",
            to_do="lower batch_size or set drop_last to False",
        )
    updates = args.num_updates or (args.epochs or 1) * in_pass
    first = (round_index - 1) * updates
    last = first + (1 if args.dry_run else updates)
    parts = []
    for number in range(first // in_pass, -(-last // in_pass)):
        generator = torch.Generator().manual_seed(derive(seed, "batches", node_id, number))
        order = torch.randperm(num_samples, generator=generator)
        begin = max(first - number * in_pass, 0) * size
        end = min(last - number * in_pass, in_pass) * size
        parts.append(order[begin:end])
    return parts


def batches_in_round(num_samples: int, args: TrainingArgs) -> int:
    """How many batches a round has."""
    return 1 if args.dry_run else args.num_updates or (args.epochs or 1) * _in_pass(num_samples, args)


def _in_pass(num_samples: int, args: TrainingArgs) -> int:
    return num_samples // args.batch_size if args.drop_last else -(-num_samples // args.batch_size)


def load_batches(
    dataset: Dataset[Any],
    parts: Iterable[torch.Tensor],
    *,
    batch_size: int,
    collate_fn: Callable[[Any], Any] | None,
    num_workers: int,
    seed: int,
) -> Iterator[Any]:
    """Yields the batches of these sample numbers.

    A dataset whose rows are those of tensors is indexed directly; all others go through torch's DataLoader, whose
    worker processes are seeded from ``seed``. ``parts`` are taken as they are needed.
    """
    tensors = rows_of(dataset)
    if tensors is not None and collate_fn is None and not num_workers:
        yield from _index(tensors, parts, batch_size)
        return
    batches = (batch.tolist() for part in parts for batch in torch.split(part, batch_size))
    yield from DataLoader(
        dataset,
        batch_sampler=batches,  # any iterable will do: it is gone through once
        collate_fn=collate_fn,
        num_workers=num_workers,
        generator=torch.Generator().manual_seed(seed),
    )


def rows_of(dataset: Dataset[Any]) -> tuple[torch.Tensor, ...] | None:
    """The tensors that hold a dataset's rows; None if there are none, or if its class changes what a row is."""
    own = getattr(type(dataset), "__getitem__", None)
    if own not in (TensorDataset.__getitem__, TableDataset.__getitem__) or hasattr(dataset, "__getitems__"):
        return None
    return getattr(dataset, "tensors", None)


def _index(tensors: tuple[torch.Tensor, ...], parts: Iterable[torch.Tensor], batch_size: int) -> Iterator[Any]:
    bytes_a_row = sum(t[:1].numel() * t.element_size() for t in tensors) or 1
    at_once = max(_GATHER_BYTES // bytes_a_row // batch_size, 1) * batch_size
    for part in parts:
        for rows in torch.split(part, at_once):
            gathered = [torch.split(t[rows], batch_size) for t in tensors]
            yield from zip(*gathered, strict=True)
