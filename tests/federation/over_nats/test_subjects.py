"""Names at the hub. What the server makes of the permissions is tested in tests/federation/hub/test_permissions.py."""

import pytest

from polyclinic.errors import ConfigError
from polyclinic.federation.over_nats import subjects
from polyclinic.federation.over_nats.subjects import Role


def covers(pattern, subject):
    """NATS' rule: ``*`` is one token, ``>`` at the end is one or more."""
    wanted, got = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        return len(got) >= len(wanted) and all(w in ("*", g) for w, g in zip(wanted[:-1], got, strict=False))
    return len(wanted) == len(got) and all(w in ("*", g) for w, g in zip(wanted, got, strict=True))


def allowed(patterns, subject):
    return any(covers(pattern, subject) for pattern in patterns)


def test_each_side_may_send_what_the_other_hears():
    node, researcher = subjects.permissions(Role.NODE, "guys"), subjects.permissions(Role.RESEARCHER, "ada")
    assert allowed(researcher.publish, subjects.request("guys", "ada", "r1"))
    assert allowed(researcher.publish, subjects.down("ada", "e1", "ab", 0))
    for said, heard in ((subjects.control("guys", "ada"), node),):
        assert allowed(researcher.publish, said)
        assert allowed(heard.subscribe, said)
    for said in (subjects.reply("ada", "guys", "r1"), subjects.live("ada", "guys"), subjects.heartbeat("guys")):
        assert allowed(node.publish, said)
        assert allowed(researcher.subscribe, said)
    for stream, said in ((subjects.REPLIES, subjects.reply("ada", "guys", "r1")), (subjects.NODES, "$KV.NODES.guys")):
        assert allowed(researcher.publish, subjects.direct_get(stream, said))
    up = subjects.up("ada", "guys", "r1", "ab", 7)
    assert allowed(node.publish, up)
    assert allowed(researcher.publish, subjects.direct_get(subjects.PAYLOADS, up))
    assert allowed(node.publish, subjects.direct_get(subjects.PAYLOADS, subjects.down("ada", "e1", "ab", 0)))


def test_every_verb_of_the_desk_may_be_asked_by_oneself_only():
    for role in Role:
        may = subjects.permissions(role, "guys").publish
        for verb in subjects.DESK_VERBS:
            assert allowed(may, subjects.desk(verb, "guys"))
            assert not allowed(may, subjects.desk(verb, "kings"))


def test_a_token_opens_one_subject():
    may = subjects.joining_permissions("t1")
    assert may.publish == ("join.t1",)
    assert may.subscribe == ("_JOIN.t1.>",)


@pytest.mark.parametrize("text", ["", "a.b", "*", ">", "a b", "a\n", "é", "x" * 129, "$SYS"], ids=range(9))
def test_what_could_reach_beyond_its_place_is_refused(text):
    for make in (
        lambda: subjects.request(text, "ada", "r1"),
        lambda: subjects.reply("ada", "guys", text),
        lambda: subjects.down("ada", text, "ab", 0),
        lambda: subjects.inbox(text),
        lambda: subjects.permissions(Role.NODE, text),
        lambda: subjects.desk("hello", text),
    ):
        with pytest.raises(ConfigError, match="cannot be part of a subject"):
            make()


def test_a_chunk_and_its_headers_fit_into_a_message():
    assert subjects.CHUNK_BYTES + 4096 < subjects.MAX_MESSAGE_BYTES
    assert subjects.PROGRESS_EVERY_SECONDS * 3 < subjects.ACK_WAIT_SECONDS
    assert subjects.HEARTBEAT_EVERY_SECONDS * 3 < subjects.HEARTBEAT_TTL_SECONDS
