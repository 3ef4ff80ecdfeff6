"""What the server lets a party do, and what not: the two tables below, tried one by one."""

from types import SimpleNamespace

import pytest

from polyclinic.federation.hub.joining import join
from polyclinic.federation.over_nats import event_loop, subjects
from polyclinic.federation.over_nats.identity import connection_options
from polyclinic.federation.over_nats.subjects import Role

SHA = "a" * 64

# Of node `guys`; `kings` is another node, `ada` and `bob` are researchers.
NODE_MAY_PUBLISH = [
    "rep.ada.guys.r1",
    f"up.ada.guys.r1.{SHA}.0",
    "live.ada.guys",
    "$KV.NODES.guys",
    "desk.hello.guys",
    "$JS.API.CONSUMER.INFO.REQUESTS.guys",
    "$JS.API.CONSUMER.MSG.NEXT.REQUESTS.guys",
    "$JS.ACK.REQUESTS.guys.1.1.1.1.0",
    f"$JS.API.DIRECT.GET.PAYLOADS.down.ada.e1.{SHA}.0",
]
NODE_MAY_NOT_PUBLISH = [
    "rep.ada.kings.r1",
    f"up.ada.kings.r1.{SHA}.0",
    "live.ada.kings",
    "$KV.NODES.kings",
    "desk.hello.kings",
    "desk.hello.ada",
    "req.kings.ada.r1",
    "req.kings.guys.r1",
    "ctl.kings.ada",
    f"down.ada.e1.{SHA}.0",
    "join.0123456789abcdef",
    "admin.refresh",
    "_INBOX.ada.x",
    "_INBOX.kings.x",
    "$JS.API.CONSUMER.INFO.REQUESTS.kings",
    "$JS.API.CONSUMER.MSG.NEXT.REQUESTS.kings",
    "$JS.ACK.REQUESTS.kings.1.1.1.1.0",
    "$JS.API.CONSUMER.CREATE.REQUESTS.mine",
    "$JS.API.CONSUMER.CREATE.REQUESTS.mine.req.kings.>",
    "$JS.API.CONSUMER.DURABLE.CREATE.REQUESTS.guys",
    "$JS.API.CONSUMER.DELETE.REQUESTS.guys",
    "$JS.API.STREAM.MSG.GET.REQUESTS",
    "$JS.API.STREAM.MSG.DELETE.REPLIES",
    "$JS.API.STREAM.PURGE.REQUESTS",
    "$JS.API.STREAM.INFO.REQUESTS",
    "$JS.API.STREAM.CREATE.MINE",
    "$JS.API.STREAM.SNAPSHOT.PAYLOADS",
    "$JS.API.DIRECT.GET.REQUESTS",
    "$JS.API.DIRECT.GET.REQUESTS.req.kings.ada.r1",
    "$JS.API.DIRECT.GET.PAYLOADS",
    f"$JS.API.DIRECT.GET.PAYLOADS.up.ada.kings.r1.{SHA}.0",
    "$JS.API.DIRECT.GET.REPLIES.rep.ada.kings.r1",
    "$SYS.REQ.SERVER.PING",
]
NODE_MAY_NOT_HEAR = [
    "_INBOX.>",
    "_INBOX.kings.>",
    "req.>",
    "req.guys.>",
    "rep.>",
    "ctl.kings.>",
    "ctl.*.*",
    "up.>",
    ">",
]

# Of researcher `ada`.
RESEARCHER_MAY_PUBLISH = [
    "req.guys.ada.r1",
    f"down.ada.e1.{SHA}.0",
    "ctl.guys.ada",
    "desk.forget.ada",
    "$JS.API.DIRECT.GET.REPLIES.rep.ada.guys.r1",
    f"$JS.API.DIRECT.GET.PAYLOADS.up.ada.guys.r1.{SHA}.0",
    "$JS.API.DIRECT.GET.KV_NODES.$KV.NODES.guys",
]
RESEARCHER_MAY_NOT_PUBLISH = [
    "req.guys.bob.r1",
    f"down.bob.e1.{SHA}.0",
    "ctl.guys.bob",
    "desk.forget.bob",
    "rep.ada.guys.r1",
    "rep.bob.guys.r1",
    "live.ada.guys",
    "$KV.NODES.guys",
    f"up.ada.guys.r1.{SHA}.0",
    "admin.refresh",
    "_INBOX.guys.x",
    "$JS.API.DIRECT.GET.REPLIES",
    "$JS.API.DIRECT.GET.REPLIES.rep.bob.guys.r1",
    "$JS.API.DIRECT.GET.REPLIES.rep.*.guys.r1",
    f"$JS.API.DIRECT.GET.PAYLOADS.up.bob.guys.r1.{SHA}.0",
    f"$JS.API.DIRECT.GET.PAYLOADS.down.bob.e1.{SHA}.0",
    "$JS.API.DIRECT.GET.REQUESTS.req.guys.bob.r1",
    "$JS.API.CONSUMER.CREATE.REPLIES.mine.rep.bob.>",
    "$JS.API.CONSUMER.MSG.NEXT.REQUESTS.guys",
    "$JS.ACK.REQUESTS.guys.1.1.1.1.0",
    "$JS.API.STREAM.PURGE.REPLIES",
    "$JS.API.STREAM.DELETE.REPLIES",
    "$SYS.REQ.SERVER.PING",
]
RESEARCHER_MAY_NOT_HEAR = ["_INBOX.>", "_INBOX.bob.>", "rep.>", "rep.bob.>", "rep.*.guys.*", "live.>", "req.>", "ctl.>"]


@pytest.mark.parametrize(
    ("who", "may", "may_not", "may_hear", "may_not_hear"),
    [
        ("guys", NODE_MAY_PUBLISH, NODE_MAY_NOT_PUBLISH, ["_INBOX.guys.>", "ctl.guys.>"], NODE_MAY_NOT_HEAR),
        (
            "ada",
            RESEARCHER_MAY_PUBLISH,
            RESEARCHER_MAY_NOT_PUBLISH,
            ["_INBOX.ada.>", "rep.ada.>", "live.ada.>", "$KV.NODES.*"],
            RESEARCHER_MAY_NOT_HEAR,
        ),
    ],
    ids=["node", "researcher"],
)
def test_a_party_may_do_what_it_needs_and_nothing_else(
    request, hub, kings, bob, party, who, may, may_not, may_hear, may_not_hear
):
    identity = request.getfixturevalue(who)

    async def run():
        async with party(identity) as one:
            assert await one.publishes(may) == may
            assert await one.publishes(may_not) == []
            assert await one.hears(may_hear) == may_hear
            assert await one.hears(may_not_hear) == []

    event_loop.run(run())


def test_what_a_refused_party_asked_for_did_not_happen(guys, kings, ada, party):
    """A node asks for another node's request, by name and from its consumer, and gets nothing."""

    async def run():
        async with party(guys) as thief, party(kings) as owner, party(ada) as researcher:
            await researcher.client.jetstream().publish(subjects.request("kings", "ada", "secret"), b"for kings")
            for subject in (
                "$JS.API.CONSUMER.MSG.NEXT.REQUESTS.kings",
                "$JS.API.DIRECT.GET.REQUESTS.req.kings.ada.secret",
            ):
                got = await thief.client.subscribe("_INBOX.guys.mine")
                await thief.client.publish(subject, b"", reply="_INBOX.guys.mine")
                await thief.client.flush(20)
                with pytest.raises(TimeoutError):
                    await got.next_msg(0.2)
            pull = await owner.client.jetstream().pull_subscribe_bind(consumer="kings", stream="REQUESTS")
            [mine] = await pull.fetch(1, timeout=20)
            assert mine.data == b"for kings"
            await mine.ack_sync(20)

    event_loop.run(run())


@pytest.mark.parametrize("used", [False, True])
def test_the_holder_of_a_token_may_hand_in_a_key_and_nothing_else(hub, guys, party, tmp_path, used):
    token = hub.invite("node", f"Invited {used}")
    if used:
        join(token, tmp_path)
    options = connection_options(
        token.urls, token.ca, token.keys, inbox=subjects.joining_inbox(token.token_id), name="invited"
    )

    async def run():
        async with party(SimpleNamespace(connection_options=lambda: options)) as one:
            may = [subjects.join(token.token_id)]
            may_not = [*NODE_MAY_PUBLISH, *RESEARCHER_MAY_PUBLISH, "join.0123456789abcdef", "admin.refresh"]
            assert await one.publishes([*may, *may_not]) == may
            assert await one.hears([f"_JOIN.{token.token_id}.>", "_JOIN.>", "_INBOX.guys.>", "rep.>"]) == [
                f"_JOIN.{token.token_id}.>"
            ]

    event_loop.run(run())


def test_no_party_reads_the_answers_to_another(hub):
    """Of any two parties, none may hear at the inbox of the other, whatever their roles."""
    for role in Role:
        heard = subjects.permissions(role, "guys").subscribe
        assert [subject for subject in heard if subject.startswith("_INBOX")] == ["_INBOX.guys.>"]
