"""Only the recipient can read; the same sender finds the same keys again, and nobody else does."""

import hashlib
import hmac

import pytest
from nacl.public import Box
from nacl.signing import SigningKey

from polyclinic.errors import MessageError
from polyclinic.federation.over_nats.encryption import Lock, decrypt, encrypt, key_of, salt_of
from polyclinic.federation.over_nats.identity import KeyPair

ADA, GUYS, EVE = KeyPair.generate(), KeyPair.generate(), KeyPair.generate()


def test_the_recipient_reads_what_was_encrypted_for_it_and_nobody_else():
    sealed = encrypt(b"the model", ADA, GUYS.public_key)
    assert b"the model" not in sealed
    assert decrypt(sealed, GUYS, ADA.public_key) == b"the model"
    for keys, sender in ((EVE, ADA), (GUYS, EVE)):
        with pytest.raises(MessageError, match="cannot be decrypted"):
            decrypt(sealed, keys, sender.public_key)


@pytest.mark.parametrize("damaged", [b"", b"x" * 39, bytes(100)])
def test_what_is_no_encrypted_message_is_refused(damaged):
    with pytest.raises(MessageError, match="cannot be decrypted"):
        decrypt(damaged, GUYS, ADA.public_key)


def test_it_is_the_box_of_nacl_with_the_keys_of_both_parties():
    mine = SigningKey(GUYS.raw_seed).to_curve25519_private_key()
    theirs = SigningKey(ADA.raw_seed).verify_key.to_curve25519_public_key()
    assert Box(mine, theirs).decrypt(encrypt(b"x", ADA, GUYS.public_key)) == b"x"


def test_two_messages_of_the_same_words_look_different():
    assert encrypt(b"x", ADA, GUYS.public_key) != encrypt(b"x", ADA, GUYS.public_key)


def test_keys_of_payloads_come_from_the_seed_and_the_name():
    seed = ADA.raw_seed
    assert key_of(ADA, "n") == hmac.new(seed, b"polyclinic payload key\nn", hashlib.sha256).digest()
    found = [of(keys, name) for of in (key_of, salt_of) for keys in (ADA, EVE) for name in ("n", "m")]
    assert len(set(found)) == 8


def test_a_lock_travels_as_64_bytes():
    lock = Lock(bytes(32), b"k" * 32)
    assert Lock.from_bytes(lock.to_bytes()) == lock
    assert "kk" not in repr(lock)
    with pytest.raises(MessageError, match="63 bytes, not 64"):
        Lock.from_bytes(bytes(63))
