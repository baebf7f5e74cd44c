"""A cable between a task and something that it depends on, which can be cut in several ways, each as networks do it."""

from __future__ import annotations

import asyncio
from enum import Enum
from pathlib import Path
from random import Random
from typing import Self, cast

Target = Path | tuple[str, int]
"""A unix socket, or host and port."""

_BUSY = b"<Error><Code>SlowDown</Code><Message>none</Message></Error>"
_WRITES = (b"PUT ", b"POST", b"DELE")


class Mode(Enum):
    """What the cable does.

    OPEN: carry. REFUSE: connections are cut, new ones refused. HOLE: connections stay, new ones are taken, not a byte passes;
    what was under way arrives when the cable is open again. BUSY: each request is answered 503 by an S3 that has no time.
    LOSE: of some writes over HTTP the answer is lost, after they were carried out.
    """

    OPEN = "open"
    REFUSE = "refuse"
    HOLE = "hole"
    BUSY = "busy"
    LOSE = "lose"


class Link:
    """``async with`` opens it; ``port`` is where its task connects to, on loopback, and stays.

    Args:
        target: where it leads to.
        lost: of so many writes the answer is lost in ``Mode.LOSE``, 0 to 1.
    """

    def __init__(self, target: Target, random: Random, *, lost: float = 0.3) -> None:
        self.target, self.random, self.lost = target, random, lost
        self.port = 0
        self.mode = Mode.OPEN
        self.answers_lost = 0
        self._server: asyncio.Server | None = None
        self._pairs: set[_Client] = set()
        self._dialling: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.set(Mode.REFUSE)
        for task in [*self._dialling]:
            task.cancel()
        await asyncio.gather(*self._dialling, return_exceptions=True)

    async def set(self, mode: Mode) -> None:
        """Change what it does. A change between OPEN, HOLE and LOSE leaves connections alone, every other one cuts them."""
        before, self.mode = self.mode, mode
        if Mode.BUSY in (before, mode) or mode is Mode.REFUSE:
            for client in [*self._pairs]:
                client.cut()
        if mode is Mode.REFUSE and self._server is not None:
            self._server.close()
            self._server = None
        if mode is not Mode.REFUSE and self._server is None:
            await self._listen()
        for client in [*self._pairs]:
            client.hold(held=mode is Mode.HOLE)

    def dial(self, client: _Client) -> None:
        """Connect a client that has come to the target."""
        task = asyncio.get_running_loop().create_task(self._dial(client))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    def came(self, client: _Client) -> None:
        self._pairs.add(client)

    def gone(self, client: _Client) -> None:
        self._pairs.discard(client)

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Client(self), "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _dial(self, client: _Client) -> None:
        loop = asyncio.get_running_loop()
        try:
            if isinstance(self.target, Path):
                await loop.create_unix_connection(lambda: _Far(client), str(self.target))
            else:
                await loop.create_connection(lambda: _Far(client), *self.target)
        except OSError:
            client.cut()


class _Client(asyncio.Protocol):
    """The task's end of a connection."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._early = bytearray()
        self._answering = True
        self._write = False
        self._skip = -1
        self.near: asyncio.Transport | None = None
        self.far: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.near = cast("asyncio.Transport", transport)
        self._link.came(self)
        if self._link.mode is Mode.HOLE:
            self.near.pause_reading()
        elif self._link.mode is not Mode.BUSY:
            self._link.dial(self)

    def data_received(self, data: bytes) -> None:
        if self._link.mode is Mode.BUSY:
            self._refuse(data)
            return
        if self._answering:
            self._answering, self._write = False, data.startswith(_WRITES)
        if self.far is None:
            self._early += data
        else:
            self.far.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._link.gone(self)
        if self.far is not None:
            self.far.close()

    def pause_writing(self) -> None:
        if self.far is not None:
            self.far.pause_reading()

    def resume_writing(self) -> None:
        if self.far is not None and self._link.mode is not Mode.HOLE:
            self.far.resume_reading()

    def joined(self, far: asyncio.Transport) -> None:
        """The other end is there."""
        if self.near is None or self.near.is_closing():
            far.abort()
            return
        self.far = far
        if self._early:
            far.write(bytes(self._early))
            self._early.clear()
        if self._link.mode is Mode.HOLE:
            far.pause_reading()

    def answered(self, data: bytes) -> None:
        """Bytes from the other end."""
        link = self._link
        if not self._answering and not data.startswith(b"HTTP/1.1 100"):
            self._answering = True
            if link.mode is Mode.LOSE and self._write and link.random.random() < link.lost:
                link.answers_lost += 1
                self.cut()
        if self.near is not None and not self.near.is_closing():
            self.near.write(data)

    def hold(self, *, held: bool) -> None:
        """Stop or go on reading, at both ends."""
        for end in (self.near, self.far):
            if end is not None and not end.is_closing():
                end.pause_reading() if held else end.resume_reading()
        if not held and self.far is None and self._link.mode in (Mode.OPEN, Mode.LOSE):
            self._link.dial(self)

    def cut(self) -> None:
        """Reset both ends."""
        for end in (self.near, self.far):
            if end is not None:
                end.abort()

    def _refuse(self, data: bytes) -> None:
        """Read a request over HTTP to its end, then answer that there is no time."""
        assert self.near is not None
        self._early += data
        head, ended, _ = bytes(self._early).partition(b"\r\n\r\n")
        if not ended:
            return
        if self._skip < 0:
            lines = dict(line.lower().partition(b":")[::2] for line in head.split(b"\r\n")[1:])
            self._skip = len(head) + 4 + int(lines.get(b"content-length", b"0"))
            if b"expect" in lines:
                self.near.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if len(self._early) >= self._skip:
            body = b"" if head.startswith(b"HEAD") else _BUSY
            answer = (
                b"HTTP/1.1 503 Slow Down\r\nConnection: close\r\nContent-Type: application/xml\r\n"
                b"Content-Length: %d\r\n\r\n" % len(_BUSY)
            )
            self.near.write(answer + body)
            self.near.close()


class _Far(asyncio.Protocol):
    """The dependency's end of a connection."""

    def __init__(self, client: _Client) -> None:
        self._client = client

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._client.joined(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        self._client.answered(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._client.near is not None:
            self._client.near.close()

    def pause_writing(self) -> None:
        if self._client.near is not None:
            self._client.near.pause_reading()

    def resume_writing(self) -> None:
        if self._client.near is not None:
            self._client.near.resume_reading()
