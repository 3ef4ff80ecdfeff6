"""Where local training takes its random numbers from.

The default derives a stream for every purpose, round and node. A protocol that must reproduce another program's
numbers gives its nodes streams of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch

from polyclinic.messages.requests import TrainRequest
from polyclinic.node.batches import round_order
from polyclinic.randomness import derive, seeded


class Streams:
    """Streams derived from (seed, purpose, round, node): independent of who works when."""

    def training(self, request: TrainRequest, node_id: str) -> AbstractContextManager[None]:
        """Sets the global generators for one node's round, and puts them back afterwards."""
        return seeded(derive(request.seed, "train", request.round, node_id))

    def order(self, num_samples: int, request: TrainRequest, node_id: str) -> Iterable[torch.Tensor]:
        """The sample numbers of the round's batches, one int64 tensor for each (part of a) pass over the data."""
        return round_order(
            num_samples, request.training_args, round_index=request.round, seed=request.seed, node_id=node_id
        )
