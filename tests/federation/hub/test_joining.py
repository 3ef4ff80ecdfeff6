"""Joining, with the real server: what works once, and what is refused with which words."""

import json
import socket
import stat
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import nats
import nats.errors
import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from polyclinic.errors import FederationError, JoinRefused
from polyclinic.federation.hub import joining
from polyclinic.federation.hub.certificates import make_certificates
from polyclinic.federation.hub.joining import join, join_as_researcher, read_token, require_same_hub
from polyclinic.federation.hub.parties import Invitation
from polyclinic.federation.hub.tokens import JoinToken
from polyclinic.federation.over_nats import event_loop, subjects
from polyclinic.federation.over_nats.identity import Identity, KeyPair, choose_hub, chosen_hub, connection_options
from polyclinic.federation.over_nats.subjects import Role


async def can_connect(identity):
    async def quiet(_):
        pass

    try:
        client = await nats.connect(**identity.connection_options(), allow_reconnect=False, error_cb=quiet)
    except (nats.errors.Error, OSError):
        return False
    await client.close()
    return True


def test_who_joined_can_connect_and_its_key_is_its_own(hub, tmp_path):
    token = hub.invite("node", "St Thomas'")
    identity = join(read_token(token.encode(), Role.NODE), tmp_path / "hub")
    assert (identity.party_id, identity.name, identity.role) == ("st-thomas", "St Thomas'", Role.NODE)
    assert Identity.load(tmp_path / "hub") == identity
    assert event_loop.run(can_connect(identity))
    assert stat.S_IMODE((tmp_path / "hub" / "key.seed").stat().st_mode) == 0o600
    assert not [*(tmp_path / "hub").glob("joining-*")]
    # Neither the hub's folder nor the token has ever seen the seed.
    kept = [path for path in hub.folder.path.rglob("*") if path.is_file()]
    assert [path for path in kept if identity.keys.seed.encode() in path.read_bytes()] == []
    assert identity.keys.seed not in json.dumps(token.encode())


def test_a_token_works_once(hub, tmp_path):
    token = hub.invite("node", "Once")
    first = join(token, tmp_path / "first")
    with pytest.raises(JoinRefused, match=r"used already.*\n.*polyclinic hub revoke once"):
        join(token, tmp_path / "thief")
    assert [*(tmp_path / "thief").iterdir()] == []
    assert event_loop.run(can_connect(first))


def test_an_expired_token_is_refused_by_the_clock_of_the_hub(hub, tmp_path):
    token = hub.invite("node", "Late")
    with Session(hub.parties._engine) as session:
        passed = datetime.now(UTC) - timedelta(minutes=1)
        session.execute(update(Invitation).where(Invitation.token_id == token.token_id).values(expires=passed))
        session.commit()
    with pytest.raises(JoinRefused, match="has expired"):
        join(token, tmp_path)


def test_a_withdrawn_token_is_unknown(hub, tmp_path):
    old = hub.invite("node", "Twice Invited")
    new = hub.invite("node", "Twice Invited")
    with pytest.raises(JoinRefused, match="does not know this join token"):
        join(old, tmp_path / "old")
    assert join(new, tmp_path / "new").party_id == "twice-invited"


def test_an_invented_token_is_unknown(hub, tmp_path):
    token = replace(hub.invite("node", "Real"), keys=KeyPair.generate())
    with pytest.raises(JoinRefused, match="does not know this join token"):
        join(token, tmp_path)


def test_a_token_is_for_one_role(hub):
    token = hub.invite("researcher", "Grace").encode()
    with pytest.raises(JoinRefused, match=r"for a researcher, 'Grace'\n.*polyclinic federation use"):
        read_token(token, Role.NODE)


def test_a_server_with_another_certificate_is_not_spoken_to(hub, tmp_path):
    """The token of another hub, with this one's address, as if someone had put a server of his own in its place."""
    make_certificates(tmp_path / "other", tmp_path / "other", ["127.0.0.1"])
    other = (tmp_path / "other" / "ca.pem").read_text()
    token = replace(hub.invite("node", "Wary"), ca=other)
    with pytest.raises(FederationError, match="is not the hub that made this token") as caught:
        join(token, tmp_path / "node")
    assert not isinstance(caught.value, JoinRefused)
    # The token was not spent, and the right server takes it.
    assert join(replace(token, ca=hub.folder.ca), tmp_path / "node").party_id == "wary"


def test_a_hub_that_is_not_there(hub, tmp_path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        url = f"tls://127.0.0.1:{nobody.getsockname()[1]}"
        token = replace(hub.invite("node", "Lonely"), urls=(url,))
        with pytest.raises(FederationError, match="cannot be reached at tls://"):
            join(token, tmp_path)


def test_an_answer_that_was_lost_is_asked_for_again(hub, tmp_path, monkeypatch):
    token = hub.invite("node", "Unlucky")
    hand_in = joining._hand_in

    async def lose_the_answer(*given):
        await hand_in(*given)
        raise FederationError("the connection broke")

    monkeypatch.setattr(joining, "_hand_in", lose_the_answer)
    with pytest.raises(FederationError, match="connection broke"):
        join(token, tmp_path)
    monkeypatch.undo()
    assert event_loop.run(can_connect(join(token, tmp_path)))


def test_a_hub_that_fails_after_it_took_the_key_lets_the_same_key_finish(hub, tmp_path, monkeypatch):
    """An answer that is no refusal must not throw the key away: the hub knows it by then."""
    token = hub.invite("node", "Half Way")
    require_taken = joining._require_taken
    failure = {"error": "no server answers", "to_do": "", "code": "hub"}
    monkeypatch.setattr(joining, "_require_taken", lambda token, _: require_taken(token, failure))
    with pytest.raises(FederationError, match=r"could not finish: no server answers\n.*same token") as caught:
        join(token, tmp_path)
    assert not isinstance(caught.value, JoinRefused)
    monkeypatch.undo()
    assert event_loop.run(can_connect(join(token, tmp_path)))


@pytest.mark.parametrize("key", ["", "U" * 56, "no key", None, "SU" + "A" * 56], ids=range(5))
def test_a_key_that_is_none_does_not_spend_the_token(hub, tmp_path, key):
    token = hub.invite("node", "Clumsy")

    async def hand_in():
        inbox = subjects.joining_inbox(token.token_id)
        client = await nats.connect(**connection_options(token.urls, token.ca, token.keys, inbox=inbox, name="test"))
        answer = await client.request(subjects.join(token.token_id), json.dumps({"key": key}).encode(), timeout=20)
        await client.close()
        return json.loads(answer.data)

    assert "key" in event_loop.run(hand_in())["error"]
    assert token.token_id in {one.token_id for one in hub.parties.invitations() if one.used is None}


def test_of_two_with_one_token_the_hub_takes_one(hub, tmp_path):
    token = hub.invite("node", "Raced")
    results = []

    def try_it(number):
        try:
            results.append(join(token, tmp_path / str(number)))
        except JoinRefused as err:
            results.append(err)

    threads = [threading.Thread(target=try_it, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([one for one in results if isinstance(one, Identity)]) == 1
    assert len([one for one in results if isinstance(one, JoinRefused)]) == 3


def test_a_node_with_a_hub_does_not_silently_change_to_another(hub, tmp_path):
    token = hub.invite("node", "Faithful")
    require_same_hub(token, tmp_path)
    join(token, tmp_path)
    require_same_hub(token, tmp_path)
    make_certificates(tmp_path / "other", tmp_path / "other", ["127.0.0.1"])
    other = replace(token, ca=(tmp_path / "other" / "ca.pem").read_text())
    with pytest.raises(FederationError, match="'faithful' belongs to the hub"):
        require_same_hub(other, tmp_path)


def test_a_researcher_joins_and_chooses(hub, tmp_path):
    assert chosen_hub(tmp_path) is None
    hub_id = join_as_researcher(hub.invite("researcher", "Emmy").encode(), tmp_path)
    assert chosen_hub(tmp_path) is None
    choose_hub(tmp_path, hub_id)
    assert chosen_hub(tmp_path).party_id == "emmy"
    with pytest.raises(FederationError, match="no researcher of this machine belongs to a hub 'nowhere'"):
        choose_hub(tmp_path, "nowhere")
    choose_hub(tmp_path, None)
    assert chosen_hub(tmp_path) is None


def test_damaged_tokens_are_told(hub):
    token = hub.invite("node", "Smudged").encode()
    assert JoinToken.decode(f"  {token[:300]}\n {token[300:]} \n").name == "Smudged"
    with pytest.raises(JoinRefused, match="damaged"):
        JoinToken.decode(token[:-40])
