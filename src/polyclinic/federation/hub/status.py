"""What an operator sees of a hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import nats.errors

from polyclinic.federation.hub import streams
from polyclinic.federation.hub.certificates import fingerprint
from polyclinic.federation.hub.config import ACCOUNT
from polyclinic.federation.hub.layout import HubFolder
from polyclinic.federation.hub.parties import Parties, Party
from polyclinic.federation.hub.reload import ask_all, system_connection
from polyclinic.federation.hub.running import admin_connection, pid_of
from polyclinic.federation.over_nats.subjects import Role

if TYPE_CHECKING:
    from rich.table import Table


@dataclass
class Look:
    """What a hub was seen to be.

    Args:
        pid: of the process on this machine; None: none.
        servers: names of those that answer.
        connected: since when and from where, by public key.
        queues: requests that wait for a node or are worked on by it, by its id.
        stored: messages and bytes, by stream.
    """

    pid: int | None
    servers: list[str] = field(default_factory=list)
    connected: dict[str, str] = field(default_factory=dict)
    queues: dict[str, int] = field(default_factory=dict)
    stored: dict[str, tuple[int, int]] = field(default_factory=dict)


async def look(hub: HubFolder) -> Look:
    """Looks at a hub; what cannot be reached is left empty.

    Raises:
        HubError: if there is no hub in the folder.
    """
    settings = hub.require().settings()
    seen = Look(pid_of(hub))
    try:
        admin = await admin_connection(hub)
    except (OSError, nats.errors.Error, TimeoutError):
        return seen
    system = await system_connection(hub)
    try:
        question = {"auth": True, "acc": ACCOUNT, "limit": 10_000}
        for answer in await ask_all(system, "PING.CONNZ", question, expected=settings.cluster):
            seen.servers.append(answer["server"]["name"])
            seen.connected |= dict(map(_connection, answer["data"]["connections"]))
        js = admin.jetstream()
        for node_id, info in (await streams.consumers(js)).items():
            seen.queues[node_id] = (info.num_pending or 0) + (info.num_ack_pending or 0)
        for stream in await js.streams_info():
            seen.stored[str(stream.config.name)] = (stream.state.messages, stream.state.bytes)
    finally:
        await system.close()
        await admin.close()
    return seen


def _connection(found: dict[str, Any]) -> tuple[str, str]:
    since = datetime.fromisoformat(found["start"][:19] + "+00:00")
    return found.get("authorized_user", ""), f"since {since:%Y-%m-%d %H:%M} from {found['ip']}"


def tables(hub: HubFolder, seen: Look) -> Iterator[str | Table]:
    """The same, for a terminal."""
    from rich.table import Table

    settings, parties = hub.settings(), Parties(hub)
    how = f"runs (process {seen.pid})" if seen.pid else "does not run on this machine"
    yield f"The hub {settings.name!r} at {hub.path} {how}"
    yield f"Address: {', '.join(settings.urls)}"
    yield f"Servers that answer: {', '.join(sorted(seen.servers)) or 'none'}"
    yield f"SHA-256 of its certificate authority: {fingerprint(hub.ca)}"
    members = Table("id", "name", "role", "state", "queue", title="Parties", title_justify="left")
    for party in parties.everybody():
        queue = seen.queues.get(party.party_id) if party.role is Role.NODE else None
        members.add_row(
            party.party_id, party.name, party.role, _state(party, seen), "" if queue is None else str(queue)
        )
    yield members
    now = datetime.now(UTC)
    if waiting := [one for one in parties.invitations() if one.is_open(now)]:
        invited = Table("id", "name", "role", "until (UTC)", title="Join tokens not used", title_justify="left")
        for one in waiting:
            invited.add_row(one.party_id, one.name, one.role, f"{one.expires:%Y-%m-%d %H:%M}")
        yield invited
    if seen.stored:
        stored = Table("stream", "messages", "MB", title="Stored", title_justify="left")
        for name, (messages, size) in sorted(seen.stored.items()):
            stored.add_row(name, str(messages), f"{size / 1e6:.1f}")
        yield stored


def _state(party: Party, seen: Look) -> str:
    if party.revoked:
        return f"revoked {party.revoked:%Y-%m-%d %H:%M}"
    if not seen.servers:
        return "member"
    return seen.connected.get(party.public_key, "not connected")
