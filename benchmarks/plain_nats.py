"""The bytes that a round of a federation moves, through a plain nats-py publisher and plain pull consumers.

One publisher sends a model in messages of 1 MB; each of the others, a process of its own, pulls all of it and then
publishes as many bytes, all of which the first one pulls. The stream is on disk, the way is TLS, and there is nothing
else: no files, no check sums, no encryption of their own.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import nats
from nats.aio.client import Client
from nats.js import JetStreamContext

from polyclinic.federation.hub.layout import HubFolder
from polyclinic.federation.over_nats.identity import connection_options

STREAM = "PLAIN"
CHUNK = bytes(1 << 20)
UNDER_WAY = 8


def seconds_of_rounds(hub: HubFolder, nodes: int, megabytes: int, rounds: int) -> list[float]:
    """Of each round, at a hub that runs."""
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(nodes + 1)
    others = [context.Process(target=_other, args=(hub.path, k, megabytes, rounds, ready)) for k in range(nodes)]
    for process in others:
        process.start()
    seconds = asyncio.run(_first(hub, nodes, megabytes, rounds, ready))
    for process in others:
        process.join()
    return seconds


async def _first(hub: HubFolder, nodes: int, megabytes: int, rounds: int, ready: Barrier) -> list[float]:
    client, stream = await _connect(hub)
    await stream.add_stream(name=STREAM, subjects=["plain.>"])
    await asyncio.to_thread(ready.wait)
    seconds = []
    for number in range(rounds):
        pulling = await stream.pull_subscribe(f"plain.up.{number}.*", durable=f"up-{number}", stream=STREAM)
        await asyncio.to_thread(ready.wait)
        began = time.monotonic()
        await _publish(stream, f"plain.down.{number}", megabytes)
        await _pull(pulling, nodes * megabytes)
        seconds.append(time.monotonic() - began)
        await stream.purge_stream(STREAM)
    await stream.delete_stream(STREAM)
    await client.close()
    return seconds


def _other(path: Path, index: int, megabytes: int, rounds: int, ready: Barrier) -> None:
    async def work() -> None:
        client, stream = await _connect(HubFolder(path))
        await asyncio.to_thread(ready.wait)
        for number in range(rounds):
            name = f"down-{number}-{index}"
            pulling = await stream.pull_subscribe(f"plain.down.{number}", durable=name, stream=STREAM)
            await asyncio.to_thread(ready.wait)
            await _pull(pulling, megabytes)
            await _publish(stream, f"plain.up.{number}.{index}", megabytes)
        await client.close()

    asyncio.run(work())


async def _connect(hub: HubFolder) -> tuple[Client, JetStreamContext]:
    options = connection_options(hub.settings().local_urls, hub.ca, hub.admin, inbox="_INBOX.plain", name="plain")
    client = await nats.connect(**options)
    return client, client.jetstream(timeout=60)


async def _publish(stream: JetStreamContext, subject: str, megabytes: int) -> None:
    left = iter(range(megabytes))

    async def work() -> None:
        for _ in left:
            await stream.publish(subject, CHUNK)

    await asyncio.gather(*(work() for _ in range(UNDER_WAY)))


async def _pull(pulling: JetStreamContext.PullSubscription, megabytes: int) -> None:
    left = megabytes
    while left:
        messages = await pulling.fetch(min(UNDER_WAY, left), timeout=60)
        for message in messages:
            await message.ack()
        left -= len(messages)
