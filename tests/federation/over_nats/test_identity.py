"""Keys and identities; signatures are judged by `cryptography`, which made none of them."""

import base64
import stat

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from polyclinic.errors import FederationError, MessageError
from polyclinic.federation.over_nats.identity import (
    LOCAL,
    Identity,
    KeyPair,
    choose_hub,
    chosen_hub,
    hub_folder,
    is_signed,
    known_hubs,
    raw_public_key,
)
from polyclinic.federation.over_nats.subjects import Role


def identity(**fields):
    given = {
        "role": Role.RESEARCHER,
        "party_id": "ada",
        "name": "Ada Lovelace",
        "hub_name": "Cœur",
        "urls": ("tls://hub.example.org:4222",),
        "ca": "-----BEGIN CERTIFICATE-----",
        "keys": KeyPair.generate(),
    }
    return Identity(**given | fields)


def test_a_signature_is_ed25519_over_the_exact_bytes():
    keys = KeyPair.generate()
    signature = keys.sign(b"train this")
    public = Ed25519PublicKey.from_public_bytes(raw_public_key(keys.public_key))
    public.verify(signature, b"train this")
    with pytest.raises(InvalidSignature):
        public.verify(signature, b"train that")
    assert is_signed(keys.public_key, b"train this", signature)
    assert not is_signed(keys.public_key, b"train that", signature)
    assert not is_signed(KeyPair.generate().public_key, b"train this", signature)
    assert not is_signed(keys.public_key, b"train this", signature[:-1])
    assert not is_signed(keys.public_key, b"train this", b"")


def test_a_seed_is_the_private_key():
    """The form of a seed: two bytes of what it is, 32 of Ed25519's secret, two of check sum."""
    keys = KeyPair.generate()
    raw = base64.b32decode(keys.seed + "=" * (-len(keys.seed) % 8))
    theirs = Ed25519PrivateKey.from_private_bytes(raw[2:34])
    assert theirs.public_key().public_bytes_raw() == raw_public_key(keys.public_key)
    assert theirs.sign(b"x") == keys.sign(b"x")


def test_a_public_key_with_a_slip_of_the_pen_is_refused():
    key = KeyPair.generate().public_key
    assert len(key) == 56
    assert key[0] == "U"
    for place in range(56):
        other = "A" if key[place] != "A" else "B"
        with pytest.raises(MessageError, match="no public key"):
            raw_public_key(key[:place] + other + key[place + 1 :])


def test_a_seed_in_place_of_a_key_is_not_repeated_in_the_error():
    seed = KeyPair.generate().seed
    with pytest.raises(MessageError) as caught:
        raw_public_key(seed)
    assert seed not in str(caught.value)


def test_an_identity_comes_back_as_it_was_and_keeps_its_secret(tmp_path):
    mine = identity()
    mine.save(tmp_path / "ada")
    assert Identity.load(tmp_path / "ada") == mine
    assert stat.S_IMODE((tmp_path / "ada" / "key.seed").stat().st_mode) == 0o600
    assert mine.keys.seed not in (tmp_path / "ada" / "identity.json").read_text()
    assert mine.keys.seed not in repr(mine)
    other = identity(name="Ada L.")
    other.save(tmp_path / "ada")
    assert Identity.load(tmp_path / "ada") == other


@pytest.mark.parametrize(
    ("text", "says"),
    [(None, "there is no identity"), ("{", "cannot be read"), ("[]", "cannot be read"), ('{"version": 2}', "format")],
    ids=range(4),
)
def test_an_identity_that_cannot_be_read(tmp_path, text, says):
    if text is not None:
        identity().save(tmp_path)
        (tmp_path / "identity.json").write_text(text)
    with pytest.raises(FederationError, match=says):
        Identity.load(tmp_path)


def test_hubs_of_a_machine(tmp_path):
    assert (known_hubs(tmp_path), chosen_hub(tmp_path)) == ({}, None)
    ada, bob = identity(), identity(party_id="bob")
    ada.save(hub_folder(tmp_path, "heart"))
    bob.save(hub_folder(tmp_path, "skin"))
    assert list(known_hubs(tmp_path)) == ["heart", "skin"]
    choose_hub(tmp_path, "skin")
    assert chosen_hub(tmp_path) == bob
    choose_hub(tmp_path, "heart")
    assert chosen_hub(tmp_path) == ada
    with pytest.raises(FederationError, match=r"a hub 'hart'\n.*did you mean 'heart'"):
        choose_hub(tmp_path, "hart")
    assert chosen_hub(tmp_path) == ada
    choose_hub(tmp_path, None)
    assert chosen_hub(tmp_path) is None
    assert LOCAL not in known_hubs(tmp_path)
