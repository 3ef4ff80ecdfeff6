"""The streams at the hub, and how long each keeps what."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace

from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import NotFoundError

from polyclinic.federation.hub.layout import Settings
from polyclinic.federation.over_nats import subjects
from polyclinic.federation.over_nats.subjects import Role

log = logging.getLogger("polyclinic.hub")

_DAY = 24 * 3600.0


def stream_configs(settings: Settings) -> list[StreamConfig]:
    """What streams there are.

    A full stream refuses what is new, so that its sender knows; nothing that was taken is dropped before its time.
    """
    common = StreamConfig(
        storage=StorageType.FILE,
        discard=DiscardPolicy.NEW,
        num_replicas=settings.cluster,
        allow_direct=True,
        allow_msg_ttl=True,  # a request is gone when its round's deadline has passed
        max_msg_size=subjects.MAX_MESSAGE_BYTES,
        max_msgs_per_subject=1,
        duplicate_window=120.0,
    )
    share = settings.max_disk_bytes // 10
    return [
        # A request is gone as soon as its node has acknowledged it.
        replace(
            common,
            name=subjects.REQUESTS,
            subjects=["req.*.*.*"],
            retention=RetentionPolicy.WORK_QUEUE,
            max_bytes=share,
            max_age=7 * _DAY,
        ),
        replace(common, name=subjects.REPLIES, subjects=["rep.*.*.*"], max_bytes=share, max_age=7 * _DAY),
        # Ages are a safety net: researchers have their payloads deleted when a round is over.
        replace(
            common,
            name=subjects.PAYLOADS,
            subjects=["down.*.*.*.*", "up.*.*.*.*.*"],
            max_bytes=settings.max_disk_bytes - 3 * share,
            max_age=3 * _DAY,
        ),
        # In the form of a key-value bucket.
        replace(
            common,
            name=subjects.NODES,
            subjects=[subjects.heartbeats()],
            storage=StorageType.MEMORY,
            max_age=subjects.HEARTBEAT_TTL_SECONDS,
            duplicate_window=subjects.HEARTBEAT_TTL_SECONDS,
            max_bytes=32 << 20,
            max_msg_size=1 << 20,
            allow_rollup_hdrs=True,
            deny_delete=True,
        ),
    ]


async def make_streams(js: JetStreamContext, settings: Settings) -> None:
    """Makes those that are missing, and gives the others their present limits."""
    for config in stream_configs(settings):
        assert config.name is not None
        try:
            await js.stream_info(config.name)
        except NotFoundError:
            await js.add_stream(config)
            log.info("stream %s made", config.name)
        else:
            await js.update_stream(config)


async def make_consumer(js: JetStreamContext, node_id: str) -> None:
    """The consumer that a node pulls its requests from; one that is there already stays."""
    await js.add_consumer(
        subjects.REQUESTS,
        ConsumerConfig(
            durable_name=subjects.consumer(node_id),
            filter_subject=f"req.{node_id}.>",
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=subjects.ACK_WAIT_SECONDS,
            max_ack_pending=1000,
        ),
    )


async def drop_consumer(js: JetStreamContext, node_id: str) -> None:
    """Deletes it, if it is there."""
    with suppress(NotFoundError):
        await js.delete_consumer(subjects.REQUESTS, subjects.consumer(node_id))


async def consumers(js: JetStreamContext) -> dict[str, ConsumerInfo]:
    """Those of the nodes, by their ids."""
    found: dict[str, ConsumerInfo] = {}
    while page := await js.consumers_info(subjects.REQUESTS, offset=len(found)):
        before = len(found)
        found |= {info.name: info for info in page}
        if len(found) == before:
            break
    return found


def owned_by(role: Role, party_id: str) -> list[tuple[str, str]]:
    """What a party may have at the server: streams, and the subjects to purge in them. A researcher's requests are not
    purged but withdrawn."""
    if role is Role.NODE:
        return [
            (subjects.REQUESTS, f"req.{party_id}.>"),
            (subjects.NODES, subjects.heartbeat(party_id)),
            (subjects.REPLIES, f"rep.*.{party_id}.*"),
            (subjects.PAYLOADS, f"up.*.{party_id}.*.*.*"),
        ]
    return [
        (subjects.REPLIES, f"rep.{party_id}.>"),
        (subjects.PAYLOADS, f"down.{party_id}.>"),
        (subjects.PAYLOADS, f"up.{party_id}.>"),
    ]
