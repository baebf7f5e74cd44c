"""The engine that only lets audio pass: a session records, and nothing is transcribed, in any language."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from audio.engine import EngineCapabilities, EngineEvent, EngineStream, Flushed, StreamRequest, Unavailable

CAPABILITIES: Final = EngineCapabilities(name="null", languages=frozenset(), transcribes=False)


class NullStream:
    """Swallows audio at once. Reports nothing but answers to ``flush``; never ``Settled``, for it heard nothing."""

    def __init__(self, closed: Callable[[NullStream], None]) -> None:
        self._tell_closed = closed
        self._unanswered = 0
        self._ended = False
        self._closed = False
        self._changed = asyncio.Event()

    async def send(self, pcm: Sequence[memoryview]) -> None:
        del pcm
        if self._closed:
            raise Unavailable("closed", "the stream was closed")

    async def flush(self) -> None:
        self._unanswered += 1
        self._changed.set()

    async def end(self) -> None:
        self._ended = True
        self._changed.set()

    async def events(self) -> AsyncIterator[EngineEvent]:
        while not self._closed:
            self._changed.clear()
            while self._unanswered:
                self._unanswered -= 1
                yield Flushed()
            if self._ended:
                return
            await self._changed.wait()
        raise Unavailable("closed", "the stream was closed")

    async def close(self) -> None:
        self._closed = True
        self._changed.set()
        self._tell_closed(self)


class NullEngine:
    """Has room for any number of streams."""

    def __init__(self) -> None:
        self._streams: set[NullStream] = set()
        self._closed = False

    @property
    def capabilities(self) -> EngineCapabilities:
        return CAPABILITIES

    async def open(self, request: StreamRequest) -> EngineStream:
        del request
        if self._closed:
            raise Unavailable("closed", "the engine was closed")
        stream = NullStream(self._streams.discard)
        self._streams.add(stream)
        return stream

    def has_room(self) -> bool:
        return not self._closed

    async def close(self) -> None:
        self._closed = True
        for stream in tuple(self._streams):
            await stream.close()
