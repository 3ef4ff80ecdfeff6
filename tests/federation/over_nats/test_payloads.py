"""Chunks of a payload: what is cut is the whole, nobody else reads it, what was changed is refused, and its size is
limited before anything is sent."""

import asyncio
import hashlib
import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from polyclinic.errors import FederationError, MessageError
from polyclinic.federation.over_nats import payloads, subjects
from polyclinic.federation.over_nats.connection import Link
from polyclinic.federation.over_nats.encryption import Lock, key_of, salt_of
from polyclinic.federation.over_nats.subjects import CHUNK_BYTES

LOCK = Lock(b"s" * 32, b"k" * 32)
SIZES = [(), (0,), (1,), (CHUNK_BYTES,), (CHUNK_BYTES + 1,), (5, 0, 2 * CHUNK_BYTES, 7)]


class Store:
    """What a hub keeps."""

    def __init__(self):
        self.chunks, self.sent = {}, []

    async def store(self, subject, data):
        self.sent.append(subject)
        self.chunks[subject] = data

    async def stored(self, stream, subject):
        assert stream == "PAYLOADS"
        # Later chunks come first.
        for _ in range(10 - int(subject)):
            await asyncio.sleep(0)
        return self.chunks.get(subject)


def made_of(sizes):
    return [memoryview(bytes([number + 1]) * size) for number, size in enumerate(sizes)]


def stored(parts, there=()):
    hub = Store()
    asyncio.run(payloads.upload(hub, str, parts, LOCK.key, there))
    return hub, payloads.describe(parts, LOCK.salt)


def fetched(hub, payload, tmp_path, lock=LOCK):
    path = tmp_path / "payload"
    try:
        asyncio.run(payloads.download(hub, str, payload, lock, path))
    except MessageError:
        assert not path.exists()
        raise
    return path.read_bytes()


@pytest.mark.parametrize("sizes", SIZES)
def test_chunks_are_the_parts_in_pieces_of_one_size(sizes):
    parts = made_of(sizes)
    whole = b"".join(parts)
    found = list(payloads.chunks(parts))
    assert b"".join(found) == whole
    assert all(len(chunk) == CHUNK_BYTES for chunk in found[:-1])
    assert len(found) == -(-len(whole) // CHUNK_BYTES)
    described = payloads.describe(parts, LOCK.salt)
    assert (described.size, described.sha256) == (len(whole), hashlib.sha256(LOCK.salt + whole).hexdigest())


@pytest.mark.parametrize("sizes", SIZES)
def test_what_was_uploaded_is_downloaded(tmp_path, sizes):
    parts = made_of(sizes)
    hub, payload = stored(parts)
    assert fetched(hub, payload, tmp_path) == b"".join(parts)


def test_a_chunk_at_the_hub_is_encrypted_with_its_number():
    hub, _ = stored([bytes(CHUNK_BYTES), b"the end"])
    assert AESGCM(LOCK.key).decrypt((1).to_bytes(12, "little"), hub.chunks["1"], None) == b"the end"
    assert all(b"the end" not in chunk and bytes(100) not in chunk for chunk in hub.chunks.values())


def test_chunks_that_are_there_are_not_sent_again():
    hub, _ = stored(made_of((5 * CHUNK_BYTES,)), there={0, 3})
    assert sorted(hub.sent) == ["1", "2", "4"]


def exchanged(chunks):
    chunks["0"], chunks["1"] = chunks["1"], chunks["0"]


def shortened(chunks):
    chunks["0"] = chunks["0"][:-1]


def changed(chunks):
    chunks["1"] = bytes([chunks["1"][0] ^ 1]) + chunks["1"][1:]


def of_another_payload(chunks):
    # Somebody who has the key, as all nodes of a round have, and can write at the hub.
    chunks["0"] = AESGCM(LOCK.key).encrypt(bytes(12), bytes(CHUNK_BYTES), None)


def grown(chunks):
    chunks["1"] = AESGCM(LOCK.key).encrypt((1).to_bytes(12, "little"), bytes(2 * CHUNK_BYTES), None)


@pytest.mark.parametrize("harm", [exchanged, shortened, changed, of_another_payload, grown])
def test_what_was_changed_at_the_hub_is_refused(tmp_path, harm):
    hub, payload = stored(made_of((CHUNK_BYTES, CHUNK_BYTES)))
    harm(hub.chunks)
    with pytest.raises(MessageError, match="not what their sender signed"):
        fetched(hub, payload, tmp_path)


def test_another_key_opens_nothing(tmp_path):
    hub, payload = stored([b"the model"])
    with pytest.raises(MessageError, match="not what their sender signed"):
        fetched(hub, payload, tmp_path, Lock(LOCK.salt, b"e" * 32))


def test_a_chunk_that_is_gone_is_told(tmp_path):
    hub, payload = stored(made_of((CHUNK_BYTES, CHUNK_BYTES)))
    del hub.chunks["0"]
    with pytest.raises(MessageError, match="not at the hub any more"):
        fetched(hub, payload, tmp_path)


def test_what_is_too_large_is_an_error_that_says_what_may_travel(monkeypatch):
    monkeypatch.setattr(payloads, "MAX_BYTES", 3_000_000)
    with pytest.raises(MessageError, match="tensors of 4 MB, at most 3 MB travel"):
        payloads.describe([bytes(2_000_000), bytes(2_000_000)], b"")


class CountingLink(Link):
    """One that can be cut off after so many chunks."""

    def __init__(self, identity, at_most=None):
        super().__init__(identity)
        self.sent, self.at_most = [], at_most

    async def store(self, subject, data, **more):
        if len(self.sent) == self.at_most:
            raise FederationError("cut off")
        self.sent.append(int(subject.rpartition(".")[2]))
        await super().store(subject, data, **more)


def test_a_program_that_was_killed_uploads_only_what_the_hub_does_not_have(ada, guys, tmp_path):
    parts = [memoryview(os.urandom(9 * CHUNK_BYTES + 5))]
    salt = salt_of(ada.keys, "e")
    payload = payloads.describe(parts, salt)
    lock = Lock(salt, key_of(ada.keys, payload.sha256))

    def subject(chunk):
        return subjects.down("ada", "e", payload.sha256, chunk)

    async def uploaded(at_most=None):
        link = CountingLink(ada, at_most)
        await link.open()
        try:
            there = await payloads.stored_chunks(link, {"experiment": "e", "sha256": payload.sha256})
            await payloads.upload(link, subject, parts, lock.key, there)
        finally:
            await link.close()
        return link.sent, there

    async def downloaded():
        link = Link(guys)
        await link.open()
        await payloads.download(link, subject, payload, lock, tmp_path / "model")
        await link.close()

    with pytest.raises(FederationError, match="cut off"):
        asyncio.run(uploaded(at_most=7))
    sent, there = asyncio.run(uploaded())
    # Chunks that were under way may have been stored or not.
    assert there
    assert sorted([*sent, *there]) == list(range(10))
    assert asyncio.run(uploaded())[0] == []
    asyncio.run(downloaded())
    assert (tmp_path / "model").read_bytes() == parts[0]
