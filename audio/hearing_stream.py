"""One engine stream of a session, from its opening to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from audio.engine import EngineError, EngineStream, Flushed, Unavailable
from audio.feeding import Feed, Flushes, resume_at
from audio.hearing import Hearing
from audio.pcm import SAMPLE_RATE

CLOSED_BY_ENGINE: Final = "closed_by_engine"
"""Code of the error that a clean end becomes when it was not ours."""


class HearingStream:
    """Feeds a stream and listens to it at once. Shares its collaborators with the session's other streams, one after another."""

    def __init__(
        self,
        stream: EngineStream,
        *,
        feed: Feed,
        hearing: Hearing,
        flushes: Flushes,
        ending: asyncio.Event,
        clock: Callable[[], float],
        piece: int,
        silent: float | None,
    ) -> None:
        """``piece``: samples sent at once at most. ``silent``: see ``TranscriberLimits.silent_stream``."""
        self._stream = stream
        self._feed = feed
        self._hearing = hearing
        self._flushes = flushes
        self._ending = ending
        self._clock = clock
        self._piece = piece
        self._silent = silent
        self._work = asyncio.Event()
        self._fate: asyncio.Future[EngineError | None] = asyncio.get_running_loop().create_future()
        self._last_event = (clock(), feed.position)

    def wake(self) -> None:
        """There is audio, a flush or the end."""
        self._work.set()

    def look(self) -> None:
        """Find a stream dead that takes audio and reports nothing."""
        if self._silent is None or self._fate.done():
            return
        when, position = self._last_event
        waited = self._clock() - when
        if waited > self._silent and self._feed.position - position > self._silent * SAMPLE_RATE:
            self._fate.set_result(Unavailable("silent_stream", "the stream takes audio and reports nothing"))

    async def serve(self) -> EngineError | None:
        """Feed and listen until the stream ends; None when it ended because we said so. Does not close it."""
        async with asyncio.TaskGroup() as tasks:
            feeding = tasks.create_task(self._send_all())
            listening = tasks.create_task(self._listen())
            error = await self._first_end(feeding, listening)
            feeding.cancel()
            listening.cancel()
        return error

    async def _first_end(
        self, feeding: asyncio.Task[EngineError | None], listening: asyncio.Task[EngineError | None]
    ) -> EngineError | None:
        ends: set[asyncio.Future[EngineError | None]] = {feeding, listening, self._fate}
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        told = feeding.done() and feeding.result() is None
        if told:
            await asyncio.wait(ends - {feeding}, return_when=asyncio.FIRST_COMPLETED)
        if self._fate.done():
            return self._fate.result()
        if not listening.done():
            return feeding.result()
        if listening.result() is None and not told:
            return Unavailable(CLOSED_BY_ENGINE, "the engine ended the stream")
        return listening.result()

    async def _listen(self) -> EngineError | None:
        try:
            async for event in self._stream.events():
                self._last_event = (self._clock(), self._feed.position)
                if not isinstance(event, Flushed):
                    self._hearing.take(event)
                elif (answered := self._flushes.answer()) is not None:
                    self._hearing.settle(answered)
                self._flushes.wake(self._hearing.settled)
        except EngineError as error:
            return error
        return None

    async def _send_all(self) -> EngineError | None:
        feed = self._feed
        try:
            while True:
                if self._flushes.due(feed.position, self._hearing.settled):
                    self._flushes.sent(feed.position)
                    await self._stream.flush()
                elif feed.position < feed.head:
                    await self._send_piece()
                elif self._ending.is_set():
                    await self._stream.end()
                    return None
                else:
                    self._work.clear()
                    await self._work.wait()
        except EngineError as error:
            return error

    async def _send_piece(self) -> None:
        feed = self._feed
        start = feed.position
        if feed.overtaken():
            start = resume_at(feed, self._hearing, start)
        end = self._flushes.border(start, min(feed.head, start + self._piece))
        samples = feed.read(end)
        self._hearing.fed(start, end - start)
        await self._stream.send(samples)
        feed.sent(end)
