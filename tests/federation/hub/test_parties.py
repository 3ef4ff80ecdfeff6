"""The list of parties, without a server."""

import threading
from datetime import timedelta

import pytest

from polyclinic.errors import ConfigError, HubError, JoinRefused
from polyclinic.federation.hub.layout import HubFolder
from polyclinic.federation.hub.parties import Invitation, Parties
from polyclinic.federation.hub.running import configure
from polyclinic.federation.over_nats.identity import KeyPair
from polyclinic.federation.over_nats.subjects import Role

HOUR = timedelta(hours=1)


@pytest.fixture
def parties(tmp_path):
    hub = HubFolder(tmp_path / "hub")
    configure(hub, hosts=("127.0.0.1",))
    return Parties(hub)


def key():
    return KeyPair.generate().public_key


def test_a_party_is_a_member_when_it_has_joined(parties):
    token = parties.invite(Role.NODE, "Guy's Hospital", HOUR)
    assert parties.members() == []
    mine = key()
    party = parties.admit(token.token_id, mine)
    assert (party.party_id, party.name, party.role, party.public_key) == (
        "guy-s-hospital",
        "Guy's Hospital",
        Role.NODE,
        mine,
    )
    assert [one.party_id for one in parties.members(Role.NODE)] == ["guy-s-hospital"]
    assert parties.members(Role.RESEARCHER) == []
    assert parties.member("guy-s-hospital").joined.utcoffset() == timedelta(0)


def test_asking_again_with_the_same_key_is_answered_alike_and_with_another_refused(parties):
    token = parties.invite(Role.NODE, "Guys", HOUR)
    mine = key()
    parties.admit(token.token_id, mine)
    assert parties.admit(token.token_id, mine).public_key == mine
    with pytest.raises(JoinRefused, match="used already"):
        parties.admit(token.token_id, key())
    assert parties.member("guys").public_key == mine


def test_an_expired_or_unknown_token_is_refused(parties):
    token = parties.invite(Role.NODE, "Guys", timedelta(0))
    with pytest.raises(JoinRefused, match="expired"):
        parties.admit(token.token_id, key())
    with pytest.raises(JoinRefused, match="does not know"):
        parties.admit("feedfeed", key())
    assert parties.members() == []


def test_a_new_invitation_makes_the_old_one_void(parties):
    old = parties.invite(Role.NODE, "Guys", HOUR)
    new = parties.invite(Role.NODE, "GUYS", HOUR)
    assert [one.token_id for one in parties.invitations()] == [new.token_id]
    with pytest.raises(JoinRefused, match="withdrawn"):
        parties.admit(old.token_id, key())
    assert parties.admit(new.token_id, key()).name == "GUYS"


def test_the_user_of_a_token_goes_an_hour_after_it_was_used(parties):
    token = parties.invite(Role.NODE, "Guys", timedelta(days=7))
    parties.admit(token.token_id, key())
    assert [one.token_id for one in parties.invitations()] == [token.token_id]
    with parties._session() as session:
        session.get(Invitation, token.token_id).used -= timedelta(minutes=61)
    assert parties.invitations() == []


@pytest.mark.parametrize("role", list(Role))
def test_an_id_is_unique_over_both_roles(parties, role):
    parties.admit(parties.invite(Role.NODE, "Guys", HOUR).token_id, key())
    with pytest.raises(HubError, match=r"node 'Guys' \(id guys\) is a member already\n.*polyclinic hub revoke guys"):
        parties.invite(role, "guys", HOUR)


def test_a_name_without_letters_is_refused(parties):
    with pytest.raises(ConfigError, match="no letter or digit"):
        parties.invite(Role.NODE, "!!!", HOUR)


def test_a_revoked_party_is_out_and_may_come_back_with_another_key(parties):
    token = parties.invite(Role.NODE, "Guys", HOUR)
    old = key()
    parties.admit(token.token_id, old)
    party, withdrawn = parties.revoke("Guys")
    assert (party.party_id, withdrawn) == ("guys", False)
    assert parties.members() == []
    assert [one.party_id for one in parties.to_sweep()] == ["guys"]
    with pytest.raises(JoinRefused, match="revoked"):
        parties.admit(token.token_id, old)
    parties.swept("guys")
    assert parties.to_sweep() == []
    new = key()
    parties.admit(parties.invite(Role.NODE, "Guys", HOUR).token_id, new)
    assert parties.member("guys").public_key == new
    assert parties.member("guys").revoked is None
    with pytest.raises(JoinRefused, match="revoked"):
        parties.admit(token.token_id, old)
    assert parties.member("guys").public_key == new


def test_revoke_withdraws_a_token_that_was_not_used(parties):
    token = parties.invite(Role.RESEARCHER, "Ada", HOUR)
    assert parties.revoke("ada") == (None, True)
    with pytest.raises(JoinRefused, match="withdrawn"):
        parties.admit(token.token_id, key())


def test_a_misspelt_name_gets_a_hint(parties):
    parties.admit(parties.invite(Role.NODE, "Guys", HOUR).token_id, key())
    parties.invite(Role.NODE, "Kings", HOUR)
    with pytest.raises(HubError, match=r"nobody here is called 'gys'\n.*did you mean 'guys'"):
        parties.revoke("gys")
    with pytest.raises(HubError, match="did you mean 'kings'"):
        parties.revoke("kinks")


def test_of_many_at_once_one_token_lets_one_in(parties):
    token = parties.invite(Role.NODE, "Guys", HOUR)
    admitted, refused = [], []

    def try_it():
        try:
            admitted.append(parties.admit(token.token_id, key()).public_key)
        except JoinRefused as err:
            refused.append(err)

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 1
    assert len(refused) == 7
    assert [one.public_key for one in parties.members()] == admitted
