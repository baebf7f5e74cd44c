"""Puts the emulator together: sockets, TLS, the watch over time; in one asynchronous context."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

import aiofastnet
from picows import ws_create_server

from loadtest.emulator.authority import make_authority
from loadtest.emulator.control import Control, ControlProtocol
from loadtest.emulator.http2 import Http2Wire
from loadtest.emulator.ledger import Ledger
from loadtest.emulator.service import Names, Quotas, Service
from loadtest.emulator.sigv4 import Credentials, Verifier
from loadtest.emulator.sockets import BACKLOG, Connections, listeners
from loadtest.emulator.stream import Rules
from loadtest.emulator.turns import Turns
from loadtest.emulator.websocket import MAX_FRAME_BYTES, WebSockets

CHECK_SECONDS: Final = 0.2
"""The rules that time alone breaks are checked so often."""
CROWD: Final = 50
"""From so many open streams on the emulator works in turns."""
_TLS_BUFFER: Final = 16_448
"""Bytes, a record and a little more: what each connection has of its own is cold whenever it is used."""
DEFAULT_KEYS: Final = {"AKIDEXAMPLE": Credentials("SECRETEXAMPLE")}


@dataclass(frozen=True, slots=True)
class Options:
    """How an emulator runs; a port of 0 picks a free one, and see `Turns` for ``turn``: only where the process does nothing else."""

    h2_port: int = 0
    ws_port: int = 0
    control_port: int = 0
    ca_out: Path | None = None
    keys: dict[str, Credentials] = field(default_factory=lambda: dict(DEFAULT_KEYS))
    rules: Rules = field(default_factory=Rules)
    quotas: Quotas = field(default_factory=Quotas)
    names: Names = field(default_factory=Names)
    refuse_by_status: bool = False
    turn: float = 0.0


@dataclass(frozen=True, slots=True)
class Ports:
    """Where it listens."""

    h2: int
    ws: int
    control: int


class _Servers:
    """What listens."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []

    async def serve(self, port: int, start: Callable[[socket.socket], Awaitable[asyncio.Server]]) -> int:
        """Listen on a port of loopback; return which."""
        found = listeners(port)
        for place, sock in enumerate(found):
            try:
                self._servers.append(await start(sock))
            except BaseException:
                for unused in found[place:]:
                    unused.close()
                raise
        return int(found[0].getsockname()[1])

    def close(self) -> None:
        """Listen no longer."""
        for server in self._servers:
            server.close()


async def _watch(service: Service, turns: Turns) -> None:
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        service.check()
        turns.crowd(crowded=service.ledger.open_streams >= CROWD)


@asynccontextmanager
async def emulator(options: Options) -> AsyncIterator[tuple[Ports, Service]]:
    """An emulator that listens; when it is left, all its connections are closed.

    Raises:
        OSError: a port is taken, or the authority's certificate cannot be written.
    """
    turns = Turns(asyncio.get_running_loop(), options.turn)
    service = Service(
        verifier=Verifier(options.keys),
        rules=options.rules,
        quotas=options.quotas,
        names=options.names,
        timers=turns,
        now=time.time,
    )
    streams, calls = Connections(service.ledger), Connections(Ledger())
    servers = _Servers()
    try:
        ports = await _listen(options, service, streams, calls, servers)
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(_watch(service, turns))
            yield ports, service
            watch.cancel()
    finally:
        turns.close()
        servers.close()
        streams.abort_all()
        calls.abort_all()
        # The transports tell of their end in the loop's next turn.
        await asyncio.sleep(0)


async def _listen(
    options: Options, service: Service, streams: Connections, calls: Connections, servers: _Servers
) -> Ports:
    loop = asyncio.get_running_loop()
    authority = make_authority(datetime.now(UTC))
    if options.ca_out is not None:
        options.ca_out.write_bytes(authority.certificate)
    h2_context, ws_context = authority.context("h2"), authority.context("http/1.1")
    upgrade = WebSockets(service, streams, refuse_by_status=options.refuse_by_status)
    control = Control(service)

    def http2(sock: socket.socket) -> Awaitable[asyncio.Server]:
        make = partial(Http2Wire, service, streams)
        return aiofastnet.create_server(
            loop,
            make,
            sock=sock,
            ssl=h2_context,
            backlog=BACKLOG,
            ssl_incoming_bio_size=_TLS_BUFFER,
            ssl_outgoing_bio_size=_TLS_BUFFER,
        )

    def websocket(sock: socket.socket) -> Awaitable[asyncio.Server]:
        return ws_create_server(
            upgrade,
            sock=sock,
            ssl=ws_context,
            backlog=BACKLOG,
            max_frame_size=MAX_FRAME_BYTES,
            enable_auto_pong=True,
            ssl_incoming_bio_size=_TLS_BUFFER,
            ssl_outgoing_bio_size=_TLS_BUFFER,
        )

    def calling(sock: socket.socket) -> Awaitable[asyncio.Server]:
        return loop.create_server(partial(ControlProtocol, control, calls), sock=sock)

    return Ports(
        h2=await servers.serve(options.h2_port, http2),
        ws=await servers.serve(options.ws_port, websocket),
        control=await servers.serve(options.control_port, calling),
    )
