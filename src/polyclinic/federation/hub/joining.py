"""How a node or a researcher joins a hub: its key is made here, and only the public part is handed in."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats.errors

from polyclinic.errors import FederationError, JoinRefused
from polyclinic.federation.hub.certificates import fingerprint
from polyclinic.federation.hub.one_connection import connect_once
from polyclinic.federation.hub.tokens import JoinToken
from polyclinic.federation.over_nats import event_loop, subjects
from polyclinic.federation.over_nats.identity import (
    IDENTITY,
    LOCAL,
    Identity,
    KeyPair,
    connection_options,
    hub_folder,
    known_hubs,
    write_secret,
)
from polyclinic.federation.over_nats.subjects import Role
from polyclinic.federation.over_nats.websocket import require_websocket, url_of
from polyclinic.node.registry import identifier

_CONNECT_SECONDS = 60.0
_ANSWER_SECONDS = 60.0


def read_token(text: str, role: Role, *, dial: str | None = None) -> JoinToken:
    """The token, if it is for such a party.

    Args:
        text: as it was pasted.
        dial: ``host:port`` or a URL, to reach the hub by instead of the addresses in the token.

    Raises:
        JoinRefused: if it is no token, or one for the other role.
        FederationError: if ``dial`` is no address of a hub.
    """
    token = JoinToken.decode(text)
    if dial is not None:
        token = replace(token, urls=(url_of(dial),))
    if token.role is not role:
        command = {Role.NODE: "polyclinic node join", Role.RESEARCHER: "polyclinic federation use"}[token.role]
        raise JoinRefused(f"this join token is for a {token.role}, {token.name!r}", to_do=f"use it with: {command}")
    return token


def join(token: JoinToken, folder: Path) -> Identity:
    """Joins, and keeps the identity in this folder.

    When the hub's answer is lost on the way, the same command with the same token finishes the joining.

    Raises:
        JoinRefused: the hub does not take the token.
        FederationError: the hub cannot be reached, or another server is there.
    """
    require_websocket(token.urls)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    # Kept until the hub has answered: a second try has to come with the same key.
    pending = folder / f"joining-{token.token_id}.seed"
    if not pending.exists():
        write_secret(pending, KeyPair.generate().seed)
    keys = KeyPair(pending.read_text(encoding="ascii").strip())
    try:
        event_loop.run(_hand_in(token, keys.public_key))
    except JoinRefused:
        pending.unlink()
        raise
    identity = Identity(
        role=token.role,
        party_id=token.party_id,
        name=token.name,
        hub_name=token.hub_name,
        urls=token.urls,
        ca=token.ca,
        keys=keys,
    )
    identity.save(folder)
    pending.unlink()
    return identity


def join_as_researcher(text: str, place: Path, *, dial: str | None = None) -> str:
    """Joins as a researcher of this machine.

    Args:
        text: the join token.
        place: the folder of the nodes' folders, where identities are kept too.
        dial: as for `read_token`.

    Returns:
        The hub's id, which names it on this machine.

    Raises:
        JoinRefused: the hub does not take the token.
        FederationError: the hub cannot be reached, or another server is there.
    """
    token = read_token(text, Role.RESEARCHER, dial=dial)
    hub_id = identifier(token.hub_name)
    known = known_hubs(place)
    if hub_id == LOCAL or (hub_id in known and Identity.load(known[hub_id]).ca != token.ca):
        hub_id += f"-{fingerprint(token.ca)[:8]}"
    join(token, hub_folder(place, hub_id))
    return hub_id


def require_same_hub(token: JoinToken, folder: Path) -> None:
    """Raises FederationError if a node belongs to another hub than that of the token."""
    if (folder / IDENTITY).exists() and (old := Identity.load(folder)).ca != token.ca:
        raise FederationError(
            f"node {token.party_id!r} belongs to the hub {old.hub_name!r}",
            to_do="a node has one hub: join from another place with --at DIR; or move the folder away",
            folder=folder,
        )


async def _hand_in(token: JoinToken, public_key: str) -> None:
    problems: list[Exception] = []
    options = connection_options(
        token.urls, token.ca, token.keys, inbox=subjects.joining_inbox(token.token_id), name=f"joining {token.party_id}"
    )
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            client = await connect_once(options, problems)
    except (OSError, nats.errors.Error, TimeoutError) as err:
        raise _unreachable(token, problems or [err]) from err
    try:
        question = json.dumps({"key": public_key}).encode()
        answer = json.loads(
            (await client.request(subjects.join(token.token_id), question, timeout=_ANSWER_SECONDS)).data
        )
    except (OSError, nats.errors.Error, TimeoutError, ValueError) as err:
        raise FederationError(
            f"the hub {token.hub_name!r} did not answer: {err or type(err).__name__}",
            to_do="repeat this command with the same token; if it stays so, ask the hub's operator",
        ) from err
    finally:
        with suppress(OSError, nats.errors.Error):
            await client.close()
    _require_taken(token, answer)


def _require_taken(token: JoinToken, answer: dict[str, Any]) -> None:
    if "error" not in answer:
        return
    if answer.get("code") == JoinRefused.code:
        raise JoinRefused(str(answer["error"]), to_do=str(answer.get("to_do", "")))
    # The hub may have taken the key before it failed, so this key must come again, and no other.
    raise FederationError(
        f"the hub {token.hub_name!r} could not finish: {answer['error']}",
        to_do="repeat this command with the same token; if it stays so, ask the hub's operator",
    )


def _unreachable(token: JoinToken, problems: list[Exception]) -> FederationError:
    told = " / ".join(dict.fromkeys(str(problem) or type(problem).__name__ for problem in problems))
    if any(isinstance(problem, ssl.SSLError) for problem in problems) or "certificate" in told.casefold():
        return FederationError(
            f"the server at {', '.join(token.urls)} is not the hub that made this token ({told})",
            to_do="ask the hub's operator; do not go on before this is explained",
        )
    if "authorization" in told.casefold():
        return JoinRefused(
            "the hub does not know this join token: it was withdrawn, or has expired some time ago",
            to_do="ask the hub's operator for a new one",
        )
    return FederationError(
        f"the hub cannot be reached at {', '.join(token.urls)} ({told})",
        to_do="see whether this machine may open connections to there; behind a proxy, see docs/hub.md",
    )
