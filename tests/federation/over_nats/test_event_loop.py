"""The event loop leaves no connection behind, whatever the other side does."""

import gc
import os
import signal
import warnings
from contextlib import contextmanager
from dataclasses import replace

import pytest

from polyclinic.federation.over_nats import event_loop
from polyclinic.federation.over_nats.connection import Link
from polyclinic.federation.over_nats.event_loop import LoopThread
from polyclinic.federation.try_out import free_port


@contextmanager
def nothing_left_open():
    gc.collect()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        yield
        gc.collect()
    assert [str(warning.message) for warning in seen if warning.category is ResourceWarning] == []


def test_a_connection_that_nobody_closed_is_closed(hub, guys):
    async def leave():
        await Link(guys).open()

    with nothing_left_open():
        event_loop.run(leave())


@pytest.mark.parametrize("how", ["tls", "websocket"])
def test_a_connection_to_a_server_that_is_frozen_is_closed(fresh_hub, tmp_path, how):
    if how == "websocket":
        pytest.importorskip("aiohttp")
    web = free_port()
    me = fresh_hub.start("--websocket-port", str(web)).join("researcher", "Ada", tmp_path / "ada")
    if how == "websocket":
        me = replace(me, urls=(f"wss://127.0.0.1:{web}",))
    with nothing_left_open():
        loop, link = LoopThread("test"), Link(me)
        loop.run(link.open(), 30)
        os.kill(fresh_hub.server_pid(), signal.SIGSTOP)
        try:
            loop.run(link.close(), 30)
        finally:
            loop.end()
            os.kill(fresh_hub.server_pid(), signal.SIGCONT)
        del loop, link


def test_run_gives_the_result_and_raises_the_error():
    async def answer():
        return 7

    async def fail():
        raise KeyError("this")

    assert event_loop.run(answer()) == 7
    with pytest.raises(KeyError, match="this"):
        event_loop.run(fail())
