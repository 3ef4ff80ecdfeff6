"""Random numbers as FLamby's benchmark runner drew them: from one generator that all clients share.

Every pass over a client's data costs that runner two draws: one when the loader's iterator is made, one when the
iterator's sampler is first asked. Clients take turns, so what one of them draws depends on all that were before it.
For strategies, the iterators of the first pass were made before the run's seed was set, so that draw does not count.

The order is that of torch.utils.data: `RandomSampler` draws an int64 seed for a generator of its own, and
`_BaseDataLoaderIter` draws its base seed. Reference: flamby/strategies/utils.py (DataLoaderWithMemory) and
flamby/benchmarks/fed_benchmark.py of the FLamby repository.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from polyclinic.messages.requests import TrainRequest
from polyclinic.node.streams import Streams
from polyclinic.randomness import seeded


class SharedGenerator(Streams):
    """The global generators of Python, numpy and torch after one call of FLamby's ``set_seed``, shared by all nodes.

    Args:
        seed: of all three.
        iterators_made: whether the iterators of the nodes' first passes count as made before the seed was set.
    """

    def __init__(self, seed: int, *, iterators_made: bool) -> None:
        with seeded(seed):
            self._state = _states()
        self._iterators_made = iterators_made
        self._rest: dict[str, torch.Tensor] = {}
        self._inside = False

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Puts these generators in the place of the global ones, and takes them out again as they are then."""
        if self._inside:
            yield
            return
        before = _states()
        _set_states(self._state)
        self._inside = True
        try:
            yield
        finally:
            self._inside = False
            self._state = _states()
            _set_states(before)

    @contextmanager
    def training(self, request: TrainRequest, node_id: str) -> Iterator[None]:
        del request, node_id
        with self.drawing():
            yield

    def order(self, num_samples: int, request: TrainRequest, node_id: str) -> Iterator[torch.Tensor]:
        """Goes on where the node's last round ended. A new pass is drawn when its first batch is asked for."""
        args = request.training_args
        size = args.batch_size
        left = args.num_updates or (args.epochs or 1) * -(-num_samples // size)
        while left:
            if node_id not in self._rest or not len(self._rest[node_id]):
                self._rest[node_id] = self._new_pass(num_samples, first=node_id not in self._rest)
            rest = self._rest[node_id]
            part, self._rest[node_id] = rest[: left * size], rest[left * size :]
            left -= -(-len(part) // size)
            yield part

    def _new_pass(self, num_samples: int, *, first: bool) -> torch.Tensor:
        with self.drawing():
            if not (first and self._iterators_made):
                _draw()
            generator = torch.Generator().manual_seed(_draw())
        return torch.randperm(num_samples, generator=generator)


def _draw() -> int:
    return int(torch.empty((), dtype=torch.int64).random_().item())


def _states() -> tuple[Any, ...]:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002


def _set_states(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
