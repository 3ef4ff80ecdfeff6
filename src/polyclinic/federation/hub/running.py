"""One hub as a process: its server and its desk, from start to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import nats.errors
from filelock import FileLock, Timeout
from nats.aio.client import Client

from polyclinic.errors import HubError
from polyclinic.federation.hub.certificates import make_certificates
from polyclinic.federation.hub.config import write_server_configs
from polyclinic.federation.hub.desk import Desk
from polyclinic.federation.hub.disk import DiskWatch
from polyclinic.federation.hub.layout import HubFolder, Settings
from polyclinic.federation.hub.one_connection import connect_once
from polyclinic.federation.hub.parties import Parties
from polyclinic.federation.hub.server import Server
from polyclinic.federation.over_nats import subjects
from polyclinic.federation.over_nats.identity import connection_options

log = logging.getLogger("polyclinic.hub")

_START_SECONDS = 60.0
_PROBE_SECONDS = 5.0
_ASK_SECONDS = 30.0
_STOP_SECONDS = 60.0


def prepare(hub: HubFolder, **changes: Any) -> Settings:
    """Makes what a hub needs and does not have yet: settings, keys, certificates, database, configuration.

    Args:
        hub: its folder.
        changes: settings that are to be others from now on; None: as they are.

    Raises:
        HubError: if settings contradict each other.
    """
    settings = hub.settings() if hub.exists else Settings.default()
    settings = replace(settings, **{key: value for key, value in changes.items() if value is not None})
    hub.save(settings)
    hub.make_keys()
    make_certificates(hub.path, hub.server, [host for host, _ in settings.addresses])
    (hub.server / "ca.pem").write_text(hub.ca, encoding="ascii")
    write_server_configs(hub, Parties(hub))
    return settings


async def run(hub: HubFolder, ready: Callable[[Settings], None] | None = None, **changes: Any) -> None:
    """Runs a hub until SIGINT or SIGTERM.

    Args:
        hub: its folder; made if it is not there.
        ready: called when parties can connect.
        changes: as for `prepare`.

    Raises:
        HubError: if it runs already, or its server does not start.
    """
    hub.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = FileLock(hub.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise HubError(f"the hub at {hub.path} runs already", to_do="stop it first: polyclinic hub stop") from None
    try:
        hub.pid_file.write_text(str(os.getpid()), encoding="ascii")
        await _serve(hub, prepare(hub, **changes), ready)
    finally:
        hub.pid_file.unlink(missing_ok=True)
        lock.release()


async def _serve(hub: HubFolder, settings: Settings, ready: Callable[[Settings], None] | None) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    server = Server(hub.server / "server.conf") if settings.own_server else None
    disk = DiskWatch(server, hub.server) if server else None
    desk = Desk(hub, Parties(hub), is_full=lambda: disk is not None and disk.is_full)
    watching: asyncio.Task[None] | None = None
    try:
        if server:
            await server.start()
        starting = asyncio.create_task(_open_desk(desk, hub, server))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            return
        starting.result()
        if server:
            server.keep()
        if disk:
            watching = asyncio.create_task(disk.run())
        if ready:
            ready(settings)
        await stopping
        log.info("stopping")
    finally:
        if watching:
            watching.cancel()
        # The server outlives the desk, so that the desk can say goodbye.
        await desk.close()
        if server:
            await server.stop()


async def _open_desk(desk: Desk, hub: HubFolder, server: Server | None) -> None:
    try:
        async with asyncio.timeout(_START_SECONDS):
            await _wait_for_servers(hub, server)
            await desk.open()
    except TimeoutError:
        raise HubError(
            f"no server answers at {', '.join(hub.settings().local_urls)}",
            to_do="start the servers with the configuration of: polyclinic hub config",
        ) from None
    except nats.errors.Error as err:
        raise HubError(
            f"the server does not do what the hub needs: {err}",
            to_do="look into server/server.log in the hub's folder, and whether the disk is full",
        ) from err


async def _wait_for_servers(hub: HubFolder, server: Server | None) -> None:
    while True:
        if server:
            server.require_alive()
        try:
            # A port that answers is not enough: it may belong to another program.
            async with asyncio.timeout(_PROBE_SECONDS):
                probe = await admin_connection(hub)
            await probe.jetstream().account_info()
            await probe.close()
        except (OSError, nats.errors.Error, TimeoutError) as err:
            log.debug("the server is not there yet: %s", err)
            await asyncio.sleep(0.1)
        else:
            if server:
                server.require_alive()
            return


async def admin_connection(hub: HubFolder) -> Client:
    """A connection with all rights, which does not come back when it breaks."""
    options = connection_options(hub.settings().local_urls, hub.ca, hub.admin, inbox="_INBOX.operator", name="operator")
    return await connect_once(options)


def configure(hub: HubFolder, **changes: Any) -> None:
    """Changes settings of a hub that does not run; a hub that is not there yet is made.

    Args:
        hub: its folder.
        changes: as for `prepare`.

    Raises:
        HubError: if it runs, or settings contradict each other.
    """
    changed = any(value is not None for value in changes.values())
    if changed and pid_of(hub) is not None:
        raise HubError(f"the hub at {hub.path} runs", to_do="stop it before you change it: polyclinic hub stop")
    if changed or not hub.exists:
        prepare(hub, **changes)


def pid_of(hub: HubFolder) -> int | None:
    """The process that runs the hub on this machine, if there is one."""
    if not hub.lock.exists():
        return None
    lock = FileLock(hub.lock, timeout=0)
    try:
        with lock:
            return None
    except Timeout:
        with suppress(OSError, ValueError):
            return int(hub.pid_file.read_text(encoding="ascii"))
        return None


async def refresh(hub: HubFolder) -> bool:
    """Tells a running hub that its list of parties has changed, and waits until its servers know.

    Returns:
        False if no hub answers; then it will know at its next start.

    Raises:
        HubError: if the hub cannot do it.
    """
    try:
        client = await admin_connection(hub)
    except (OSError, nats.errors.Error, TimeoutError):
        return False
    try:
        answer = json.loads((await client.request(subjects.REFRESH, b"", timeout=_ASK_SECONDS)).data)
    except (nats.errors.NoRespondersError, nats.errors.TimeoutError):
        return False
    finally:
        await client.close()
    if "error" in answer:
        raise HubError(f"the hub could not bring its server up to date: {answer['error']}", to_do=answer["to_do"])
    return True


def stop(hub: HubFolder) -> bool:
    """Ends a running hub, and waits until it has ended.

    Returns:
        False if none runs on this machine.

    Raises:
        HubError: if it does not end within a minute.
    """
    pid = pid_of(hub.require())
    if pid is None:
        return False
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + _STOP_SECONDS
    while pid_of(hub) == pid:
        if time.monotonic() > until:
            raise HubError(f"the hub, process {pid}, does not end", to_do=f"kill it: kill -9 {pid}")
        time.sleep(0.1)
    return True
