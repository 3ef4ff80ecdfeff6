"""One named stream of randomness per purpose.

Every stream is derived by a hash from (experiment seed, purpose, round, node …), so that results depend neither on
the order in which nodes work nor on the process they work in.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np


def derive(seed: int, *where: str | int) -> int:
    """A 63-bit seed for the stream of this purpose and place."""
    # int(), because numpy's integers are spelt in another way.
    parts = (part if isinstance(part, str) else int(part) for part in (seed, *where))
    digest = hashlib.blake2b(repr(tuple(parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds the global generators of Python, numpy and torch, and restores all three afterwards.

    A plan's code draws from the global generators (dropout, augmentation); nothing else of ours does.
    """
    import torch

    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    # Nothing to save on GPUs that nobody has used yet.
    in_use = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda_states = torch.cuda.get_rng_state_all() if in_use else []
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    # Not torch.manual_seed: where a GPU is not in use it keeps a stack trace of every call, which takes a millisecond.
    torch.default_generator.manual_seed(seed)
    if in_use:
        torch.cuda.manual_seed_all(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.set_rng_state(torch_state)
        for device, state in enumerate(cuda_states):
            torch.cuda.set_rng_state(state, device)
