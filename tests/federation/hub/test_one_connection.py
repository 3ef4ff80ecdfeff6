"""A connection that is cut while it is made, as a server does that takes its users anew."""

import asyncio

import pytest

from polyclinic.federation.hub.one_connection import connect_once
from polyclinic.federation.over_nats import event_loop


def test_a_connection_that_was_cut_is_tried_again_and_one_that_is_refused_is_not(hub, guys):
    tries = []

    async def forward(reader, writer):
        tries.append(writer)
        if len(tries) == 1:
            writer.transport.abort()
            return
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", hub.port)

        async def pump(source, sink):
            while data := await source.read(65536):
                sink.write(data)
                await sink.drain()
            sink.close()

        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer), return_exceptions=True)

    async def run():
        server = await asyncio.start_server(forward, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        options = guys.connection_options() | {"servers": [f"tls://127.0.0.1:{port}"]}
        client = await connect_once(options)
        assert client.is_connected
        assert len(tries) == 2
        await client.close()
        server.close()
        problems = []
        with pytest.raises(Exception, match="nats: no servers"):
            await connect_once(options, problems)
        assert any(isinstance(problem, ConnectionRefusedError) for problem in problems)

    event_loop.run(run())
