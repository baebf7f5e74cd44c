"""One subscriber's connection to one Redis, shared by all the channels that are followed there."""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Final, Protocol

from redis.asyncio.connection import AbstractConnection

CONNECT_SECONDS: Final = 1.0
PING_SECONDS: Final = 0.5
BURST: Final = 50
SILENCE_SECONDS: Final = 1.5
"""A Redis that answers neither pings nor subscriptions for so long hangs: what it publishes is not heard."""


class LineSilent(Exception):
    """Redis answers nothing any more."""


class LineMoved(Exception):
    """A channel is another node's now."""


class LineUnused(Exception):
    """Nothing is wanted any more."""


class Listener(Protocol):
    """Who is told of a channel; called synchronously."""

    def subscribed(self, channel: bytes) -> None:
        """What is published there is heard from now on."""

    def published(self, channel: bytes, data: bytes) -> None:
        """Something was."""


class Line:
    """A connection that subscribes to ``wanted`` while ``run`` runs. Made again after each failure.

    Not redis-py's PubSub: that one connects anew by itself and subscribes again, and nobody learns that something was missed.

    Args:
        connect: a connection that nobody else uses, closed when the block fails.
        sharded: SSUBSCRIBE in place of SUBSCRIBE.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractAsyncContextManager[AbstractConnection]],
        listener: Listener,
        *,
        sharded: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.wanted: set[bytes] = set()
        self.wake = asyncio.Event()
        """Set by whoever changes ``wanted``."""
        self.was_up = False
        """Whether anything was ever subscribed to."""
        self._connect, self._listener, self._clock = connect, listener, clock
        self._prefix = "S" if sharded else ""
        self._asked: set[bytes] = set()
        self._unconfirmed: dict[bytes, int] = {}
        self._heard = 0.0

    async def run(self) -> None:
        """Listen until cancelled.

        Raises:
            RedisError, OSError, LineSilent, LineMoved, LineUnused: alone or in a group.
        """
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(CONNECT_SECONDS):
                connection = await stack.enter_async_context(self._connect())
            self._heard = self._clock()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read(connection))
                group.create_task(self._write(connection))

    def hears(self, channel: bytes) -> bool:
        """Whether what is published there is heard."""
        return channel in self._asked and channel not in self._unconfirmed

    async def _write(self, connection: AbstractConnection) -> None:
        while self.wanted:
            await self._ask(connection, "SUBSCRIBE", self.wanted - self._asked)
            await self._ask(connection, "UNSUBSCRIBE", self._asked - self.wanted)
            try:
                async with asyncio.timeout(PING_SECONDS):
                    await self.wake.wait()
                self.wake.clear()
            except TimeoutError:
                if self._clock() - self._heard > SILENCE_SECONDS:
                    raise LineSilent from None
                await connection.send_command("PING")
        raise LineUnused

    async def _ask(self, connection: AbstractConnection, command: str, channels: set[bytes]) -> None:
        for channel in channels:
            if command == "SUBSCRIBE":
                self._asked.add(channel)
                self._unconfirmed[channel] = self._unconfirmed.get(channel, 0) + 1
            else:
                self._asked.discard(channel)
            # One by one: in a cluster they need not share a slot.
            await connection.send_command(self._prefix + command, channel)

    async def _read(self, connection: AbstractConnection) -> None:
        for count in itertools.count(1):
            if count % BURST == 0:
                # What is buffered is read without waiting, and who is told of it must get to pass it on.
                await asyncio.sleep(0)
            answer: Any = await connection.read_response(disable_decoding=True, timeout=math.inf)
            self._heard = self._clock()
            match answer:
                case [b"message" | b"smessage", channel, data]:
                    self._listener.published(channel, data)
                case [b"subscribe" | b"ssubscribe", channel, _]:
                    self._confirm(channel)
                case [b"sunsubscribe", channel, _] if channel in self._asked:
                    raise LineMoved

    def _confirm(self, channel: bytes) -> None:
        self.was_up = True
        left = self._unconfirmed.get(channel, 0) - 1
        if left > 0:
            self._unconfirmed[channel] = left
            return
        self._unconfirmed.pop(channel, None)
        if channel in self._asked:
            self._listener.subscribed(channel)
