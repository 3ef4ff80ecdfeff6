"""Join tokens as text."""

import base64
import json
from datetime import UTC, datetime, timedelta

import pytest

from polyclinic.errors import ConfigError, JoinRefused
from polyclinic.federation.hub.certificates import make_certificates
from polyclinic.federation.hub.tokens import PREFIX, JoinToken, duration, is_token
from polyclinic.federation.over_nats.subjects import Role


@pytest.fixture(scope="module")
def token(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ca")
    make_certificates(folder, folder, [])
    return JoinToken.new(
        Role.NODE,
        "hopital-saint-louis",
        "Hôpital Saint-Louis",
        hub_name="Cœur",
        urls=("tls://hub.example.org:4222",),
        ca=(folder / "ca.pem").read_text(),
        expires=datetime(2026, 6, 1, 12, 30, tzinfo=UTC),
    )


def changed(token, **fields):
    found = json.loads(base64.urlsafe_b64decode(token.encode()[len(PREFIX) :])) | fields
    return PREFIX + base64.urlsafe_b64encode(json.dumps(found).encode()).decode()


def test_a_token_is_one_line_and_comes_back_as_it_was(token):
    text = token.encode()
    assert text.isascii()
    assert text.isprintable()
    assert " " not in text
    assert len(text) < 1500
    assert JoinToken.decode(text) == token
    assert is_token(text)
    assert not is_token("guys")


def test_no_two_tokens_have_an_id_or_a_key_in_common(token):
    other = JoinToken.new(
        token.role, token.party_id, token.name, hub_name="", urls=(), ca=token.ca, expires=token.expires
    )
    assert other.token_id != token.token_id
    assert other.keys.public_key != token.keys.public_key


def test_the_key_does_not_show(token):
    assert token.keys.seed not in repr(token)


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "a.b"},
        {"id": "*"},
        {"party": ">"},
        {"role": "operator"},
        {"seed": "SUnonsense"},
        {"ca": "AAAA"},
        {"expires": "soon"},
        {"urls": None},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_a_token_with_a_bad_part_is_refused(token, fields):
    with pytest.raises(JoinRefused, match="damaged"):
        JoinToken.decode(changed(token, **fields))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no join token"),
        ("guys", "no join token"),
        (PREFIX, "damaged"),
        (PREFIX + "####", "damaged"),
        (PREFIX + "e30=", "damaged"),
        ("polyclinic-join-2.e30=", "another format"),
    ],
    ids=range(6),
)
def test_what_is_no_token_is_told(text, says):
    with pytest.raises(JoinRefused, match=says):
        JoinToken.decode(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30m", 1800), ("24h", 86400), ("7d", 604800), (" 1h ", 3600)], ids=range(4)
)
def test_lengths_of_time(text, seconds):
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "h", "0h", "1.5h", "-1h", "31d", "1w", "9999999h"], ids=range(8))
def test_bad_lengths_of_time(text):
    with pytest.raises(ConfigError, match=r"no length of time|cannot be good for"):
        duration(text)
