"""The gate of a node: only what a trusted researcher signed for it comes in."""

import asyncio
import hashlib
import time
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyclinic.errors import MessageError, NodeError, NotTrusted
from polyclinic.federation.over_nats.gate import Gate, id_in
from polyclinic.federation.over_nats.identity import KeyPair, node_identity_folder
from polyclinic.federation.over_nats.signing import Envelope, Payload, content_digest, seal
from polyclinic.federation.over_nats.trust import Trust
from polyclinic.messages import codec
from polyclinic.messages.replies import SearchReply
from polyclinic.messages.requests import SearchRequest

ADA, EVE, GUYS = KeyPair.generate(), KeyPair.generate(), KeyPair.generate()
LOCK = bytes(range(64))
PAYLOAD = Payload(sha256="0" * 64, size=10**6)
REQUEST = SearchRequest(request_id="r", tags=("heart",))


def frame(message=REQUEST, keys=ADA, inline=b"", to=GUYS, **changes):
    body = b"".join(codec.encode(message))
    digest = content_digest(body, hashlib.sha256(inline).hexdigest())
    fields = {"kind": "request", "id": "f", "sender": "ada", "recipient": "guys", "time": time.time()}
    fields |= {"request_id": "r", "digest": digest, "tensors": len(inline)}
    return seal(Envelope(**fields | changes), body + inline, keys, to=to.public_key)


def with_payload():
    body = b"".join(codec.encode(REQUEST))
    fields = {"kind": "request", "id": "f", "sender": "ada", "recipient": "guys", "time": time.time()}
    envelope = Envelope(**fields, request_id="r", digest=content_digest(body, PAYLOAD.sha256), payload=PAYLOAD)
    return seal(envelope, LOCK + body, ADA, to=GUYS.public_key)


def come(tmp_path, data, subject="req.guys.ada.r"):
    Trust().plus("ada", ADA.public_key).save(tmp_path)
    link = SimpleNamespace(identity=SimpleNamespace(party_id="guys", keys=GUYS))
    return asyncio.run(Gate(tmp_path, link).request(SimpleNamespace(subject=subject, data=data)))


def test_a_signed_request_comes_in_with_its_tensors(tmp_path):
    envelope, request, inline = come(tmp_path, frame(inline=b"tensors"))
    assert (envelope.id, request, inline) == ("f", REQUEST, b"tensors")


def test_a_request_whose_tensors_travel_apart_comes_in_with_their_lock(tmp_path):
    envelope, request, lock = come(tmp_path, with_payload())
    assert (envelope.payload, request, lock) == (PAYLOAD, REQUEST, LOCK)


def test_the_body_of_a_request_cannot_be_read_on_its_way():
    assert b"heart" in b"".join(codec.encode(REQUEST))
    assert b"heart" not in frame()


def test_the_trust_list_counts_as_it_is_when_a_message_comes(tmp_path):
    gate = Gate(tmp_path, SimpleNamespace(identity=SimpleNamespace(party_id="guys", keys=GUYS)))

    def comes():
        return asyncio.run(gate.request(SimpleNamespace(subject="req.guys.ada.r", data=frame())))[1] == REQUEST

    with pytest.raises(NotTrusted):
        comes()
    for keys, error in ((ADA, None), (EVE, MessageError), (ADA, None), (None, NotTrusted)):
        trust = Trust() if keys is None else Trust().plus("ada", keys.public_key)
        trust.save(tmp_path)
        assert gate.trusts("ada") == (keys is ADA and "ada" in gate.let_in)
        if error is None:
            assert comes()
            assert gate.trusts("ada")
        else:
            with pytest.raises(error):
                comes()
    (node_identity_folder(tmp_path) / "trusted.json").write_text("damaged")
    assert not gate.trusts("ada")
    with pytest.raises(NodeError, match="trust list"):
        comes()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (frame(keys=EVE), "not signed by ada"),
        (frame(recipient="toms"), "for toms came to guys"),
        (frame(sender="eve"), "of eve came as a request of ada"),
        (frame(kind="stop"), "a stop of ada came"),
        (frame(digest="0" * 64), "content is not what"),
        (frame(tensors=10**6), "tensors are not where"),
        (frame(payload=PAYLOAD), "no message: they do not start"),
        (frame(to=EVE), "cannot be decrypted"),
        (frame(request_id="other"), "came as request other"),
        (frame(SearchReply(request_id="r", node_id="n", node_name="n", datasets=())), "a search-reply/1 came"),
        (b"x" * 100_000, "does not fit"),
        (frame()[:-3], "not signed by ada"),
    ],
)
def test_whatever_is_forged_or_damaged_is_refused(tmp_path, data, what):
    with pytest.raises(MessageError, match=what):
        come(tmp_path, data)


GOOD = frame(inline=b"tensors")


@settings(max_examples=60)
@given(
    places=st.tuples(*[st.integers(0, len(GOOD))] * 2), instead=st.binary(max_size=40), other=st.binary(max_size=300)
)
def test_whatever_bytes_come_are_refused_and_break_nothing(tmp_path_factory, places, instead, other):
    folder = tmp_path_factory.mktemp("gate")
    for data in (GOOD[: min(places)] + instead + GOOD[max(places) :], other, GOOD[:68] + other):
        if data != GOOD:
            with pytest.raises(MessageError):
                come(folder, data)
        assert isinstance(id_in(data), str)


def test_brackets_without_end_do_not_break_the_parser(tmp_path):
    for text in (b"[" * 60_000, b'{"version":1,"kind":' + b"[" * 60_000):
        data = bytes(64) + len(text).to_bytes(4, "little") + text
        with pytest.raises(MessageError):
            come(tmp_path, data)
        assert id_in(data) == ""


def test_a_researcher_who_is_not_trusted_is_told_what_to_do(tmp_path):
    with pytest.raises(NotTrusted, match="does not trust researcher eve") as caught:
        come(tmp_path, frame(sender="eve", keys=EVE), "req.guys.eve.r")
    assert "polyclinic node trust" in caught.value.to_do


def test_the_id_of_a_refused_frame_is_found_where_there_is_one():
    assert id_in(frame()) == "f"
    assert [id_in(data) for data in (b"", b"x" * 200, bytes(64) + b"\x02\x00\x00\x00[]")] == ["", "", ""]


def test_who_is_off_the_list_or_has_another_key_is_not_trusted_any_more(tmp_path):
    link = SimpleNamespace(identity=SimpleNamespace(party_id="guys", keys=GUYS))
    gate = Gate(tmp_path, link)
    trust = Trust().plus("ada", ADA.public_key)
    trust.save(tmp_path)
    asyncio.run(gate.request(SimpleNamespace(subject="req.guys.ada.r", data=frame())))
    assert gate.trusts("ada")
    trust.plus("ada", EVE.public_key).save(tmp_path)
    assert not gate.trusts("ada")
    trust.without("ada").save(tmp_path)
    assert not gate.trusts("ada")
    Trust(everyone=True).save(tmp_path)
    assert gate.trusts("ada")
    (node_identity_folder(tmp_path) / "trusted.json").write_text("{")
    assert not gate.trusts("ada")
