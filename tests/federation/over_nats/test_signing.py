"""Frames: what is signed passes, and whatever is changed on the way does not."""

import time

import pytest

from polyclinic.errors import MessageError
from polyclinic.federation.over_nats.identity import KeyPair
from polyclinic.federation.over_nats.signing import WINDOW_SECONDS, Envelope, check, content_digest, seal, unseal

ADA, EVE = KeyPair.generate(), KeyPair.generate()
NOW = 1_800_000_000.0


def envelope(**changes):
    return Envelope(**{"kind": "request", "id": "f", "sender": "ada", "recipient": "guys", "time": NOW} | changes)


def passes(frame, key=ADA.public_key, recipient="guys", now=NOW):
    opened, body = unseal(frame)
    check(frame, opened, key, recipient, now)
    return opened, body


def test_a_frame_comes_back_as_it_was_signed():
    sent = envelope(request_id="r", seconds=3.5, tensors=2)
    assert passes(seal(sent, b"body", ADA)) == (sent, b"body")


def test_every_byte_is_signed():
    frame = seal(envelope(), b"body", ADA)
    for place in range(len(frame)):
        changed = frame[:place] + bytes([frame[place] ^ 1]) + frame[place + 1 :]
        with pytest.raises(MessageError):
            passes(changed)
    for other in (frame + b"x", frame[:-1], frame[:67], b""):
        with pytest.raises(MessageError):
            passes(other)


def test_the_key_of_another_and_another_recipient_are_refused():
    frame = seal(envelope(), b"", EVE)
    with pytest.raises(MessageError, match="not signed by ada"):
        passes(frame)
    with pytest.raises(MessageError, match="for guys came to toms"):
        passes(seal(envelope(), b"", ADA), recipient="toms")


@pytest.mark.parametrize("off", [-3600.0, 3600.0, 86400.0])
def test_a_clock_may_be_hours_off(off):
    passes(seal(envelope(), b"", ADA), now=NOW + off)


def test_a_time_that_is_days_off_is_refused():
    for off in (-1.01, 1.01):
        with pytest.raises(MessageError, match="days off"):
            passes(seal(envelope(), b"", ADA), now=NOW + off * WINDOW_SECONDS)
    with pytest.raises(MessageError, match="days off"):
        check(frame := seal(envelope(time=time.time() - 1e6), b"", ADA), unseal(frame)[0], ADA.public_key, "guys")


def test_another_major_version_is_told_so_and_new_fields_are_ignored():
    header = envelope().model_dump_json()
    for text, fits in ((header.replace('"version":1', '"version":2'), False), (header[:-1] + ',"new":1}', True)):
        content = len(text).to_bytes(4, "little") + text.encode()
        if fits:
            assert unseal(bytes(64) + content)[0] == envelope()
        else:
            with pytest.raises(MessageError, match="version 2; this Polyclinic reads version 1"):
                unseal(bytes(64) + content)


def test_values_of_an_unfit_envelope_are_not_repeated():
    text = b'{"version":1,"kind":"request","id":"f","sender":["a patient"],"recipient":"guys","time":1.0}'
    with pytest.raises(MessageError, match="sender") as caught:
        unseal(bytes(64) + len(text).to_bytes(4, "little") + text)
    assert "patient" not in str(caught.value)


def test_other_work_has_another_digest():
    assert len({content_digest(b"a", "x"), content_digest(b"b", "x"), content_digest(b"a", "y")}) == 3
    assert content_digest(b"a", "x") == content_digest(b"a", "x")
