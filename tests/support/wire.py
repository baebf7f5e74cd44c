"""A speaker's socket without a client around it: what a test sends is what goes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from app.protocol.messages import (
    PROTOCOL,
    Ack,
    ClientMessage,
    Ready,
    ServerMessage,
    decode_server,
    encode,
)

HEAR_SECONDS = 30.0
_M = TypeVar("_M", bound=ServerMessage)


class Wire:
    """One connection. ``heard`` holds every message so far."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self.heard: list[ServerMessage] = []

    async def say(self, *messages: ClientMessage) -> None:
        """Send text frames."""
        for message in messages:
            await self._socket.send(encode(message))

    async def speak(self, pcm: bytes, frame_bytes: int = 3_200) -> None:
        """Send audio, heedless of the window."""
        for at in range(0, len(pcm), frame_bytes):
            await self._socket.send(pcm[at : at + frame_bytes])

    async def hear(self, kind: type[_M]) -> _M:
        """The next message of a kind; those before it are kept in ``heard``."""
        async with asyncio.timeout(HEAR_SECONDS):
            while True:
                message = self._note(await self._socket.recv())
                if isinstance(message, kind):
                    return message

    async def hear_durable(self, position: int) -> Ack:
        """The ack that says that everything up to ``position`` is durable."""
        while True:
            ack = await self.hear(Ack)
            if ack.durable >= position:
                return ack

    async def closed(self, seconds: float = HEAR_SECONDS) -> int:
        """Hear to the end; the close code."""
        async with asyncio.timeout(seconds):
            try:
                while True:
                    self._note(await self._socket.recv())
            except ConnectionClosed:
                return int(self._socket.close_code or 1006)

    def _note(self, frame: str | bytes) -> ServerMessage:
        message = decode_server(frame)
        assert message is not None, "a message that the contract does not know"
        self.heard.append(message)
        return message


@asynccontextmanager
async def wire(url: str, ticket: str, after: int = 0) -> AsyncIterator[tuple[Wire, Ready]]:
    """A connection that is ``ready``; cut off on leaving."""
    protocols = [Subprotocol(PROTOCOL), Subprotocol(f"ticket.{ticket}")]
    async with connect(
        f"{url}?after={after}", subprotocols=protocols, compression=None, proxy=None, ping_interval=None
    ) as socket:
        line = Wire(socket)
        yield line, await line.hear(Ready)
        socket.transport.abort()
