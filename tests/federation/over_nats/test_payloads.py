"""Chunks of a payload: what is cut is the whole, and its size is limited before anything is sent."""

import hashlib

import pytest

from polyclinic.errors import MessageError
from polyclinic.federation.over_nats import payloads
from polyclinic.federation.over_nats.subjects import CHUNK_BYTES


@pytest.mark.parametrize("sizes", [(), (0,), (1,), (CHUNK_BYTES,), (CHUNK_BYTES + 1,), (5, 0, 2 * CHUNK_BYTES, 7)])
def test_chunks_are_the_parts_in_pieces_of_one_size(sizes):
    parts = [memoryview(bytes([number + 1]) * size) for number, size in enumerate(sizes)]
    whole = b"".join(parts)
    found = list(payloads.chunks(parts))
    assert b"".join(found) == whole
    assert all(len(chunk) == CHUNK_BYTES for chunk in found[:-1])
    assert len(found) == -(-len(whole) // CHUNK_BYTES)
    described = payloads.describe(parts)
    assert (described.size, described.sha256) == (len(whole), hashlib.sha256(whole).hexdigest())


def test_what_is_too_large_is_an_error_that_says_what_may_travel(monkeypatch):
    monkeypatch.setattr(payloads, "MAX_BYTES", 3_000_000)
    with pytest.raises(MessageError, match="tensors of 4 MB, at most 3 MB travel"):
        payloads.describe([bytes(2_000_000), bytes(2_000_000)])
