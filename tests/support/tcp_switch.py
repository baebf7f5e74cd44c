"""An address whose server can be exchanged: what a name or a balancer in front of Redis is when its primary moves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class TcpSwitch:
    """Connections made from now on lead to ``target``, a port of the loopback address; older ones stay where they lead."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = 0
        self.accepted = 0

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.accepted += 1
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pipe(reader, back))
                group.create_task(_pipe(there, writer))
        finally:
            writer.close()
            back.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()


@asynccontextmanager
async def tcp_switch(target: int) -> AsyncIterator[TcpSwitch]:
    """A switch at work."""
    switch = TcpSwitch(target)
    server = await asyncio.start_server(switch.connected, "127.0.0.1", 0)
    switch.port = int(server.sockets[0].getsockname()[1])
    try:
        yield switch
    finally:
        server.close()
