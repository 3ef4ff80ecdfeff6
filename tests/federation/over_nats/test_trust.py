"""The trust list of a node."""

import pytest

from polyclinic.errors import MessageError, NodeError
from polyclinic.federation.over_nats.identity import KeyPair, node_identity_folder
from polyclinic.federation.over_nats.trust import TRUST, Trust

KEY = KeyPair.generate().public_key


def test_nobody_is_trusted_at_first_and_who_is_added_can_be_removed(tmp_path):
    assert Trust.load(tmp_path) == Trust()
    Trust().plus("ada", KEY).save(tmp_path)
    assert Trust.load(tmp_path) == Trust({"ada": KEY})
    assert Trust.load(tmp_path).without("ada") == Trust()
    assert Trust.load(tmp_path).describe() == [f"Trusted: ada, public key {KEY}"]


def test_what_is_no_key_is_refused(tmp_path):
    with pytest.raises(MessageError, match="no public key"):
        Trust().plus("ada", KEY[:-1])


@pytest.mark.parametrize("content", ["", "[]", '{"everyone": true}', '{"everyone": true, "researchers": []}'])
def test_of_a_damaged_list_nobody_is_trusted(tmp_path, content):
    Trust().save(tmp_path)
    (node_identity_folder(tmp_path) / TRUST).write_text(content)
    with pytest.raises(NodeError, match="trust list"):
        Trust.load(tmp_path)
