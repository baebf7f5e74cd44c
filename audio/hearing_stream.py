"""One engine stream of a session, from its opening to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from audio.engine import EngineError, EngineEvent, EngineStream, Flushed, StreamResult, Unavailable
from audio.feeding import Feed, Flushes, resume_at
from audio.hearing import Hearing
from audio.hearing_vigil import Patience, Vigil
from audio.loudness import loudness

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
        patience: Patience,
        serves: Callable[[], None],
    ) -> None:
        """``piece``: samples sent at once at most. ``patience``: with streams that report nothing. ``serves``: called before its first report is passed on."""
        self._stream = stream
        self._feed = feed
        self._hearing = hearing
        self._flushes = flushes
        self._ending = ending
        self._clock = clock
        self._piece = piece
        self._patience = patience
        self._serves = serves
        self._vigil = Vigil()
        self._reported = False
        self._work = asyncio.Event()
        self._fate: asyncio.Future[EngineError | None] = asyncio.get_running_loop().create_future()

    @property
    def reported(self) -> bool:
        """Whether anything came from it."""
        return self._reported

    def wake(self) -> None:
        """There is audio, a flush or the end."""
        self._work.set()

    def look(self) -> None:
        """Find a stream dead that takes speech and reports nothing."""
        seconds = self._patience.seconds
        if seconds is not None and not self._fate.done() and self._vigil.mute(self._clock(), seconds):
            self._patience.ran_out()
            self._fate.set_result(Unavailable("silent_stream", "the stream takes speech and reports nothing"))

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
                self._take(event)
        except EngineError as error:
            return error
        return None

    def _take(self, event: EngineEvent) -> None:
        if not self._reported:
            self._reported = True
            self._serves()
        self._vigil.heard()
        if isinstance(event, StreamResult):
            self._patience.rewarded()
        if not isinstance(event, Flushed):
            self._hearing.take(event)
        elif (answered := self._flushes.answer()) is not None:
            self._hearing.settle(answered)
        self._flushes.wake(self._hearing.settled)

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
        self._vigil.sent(start, end, loudness(samples), self._clock())
        self._settle_quiet(end)

    def _settle_quiet(self, sent: int) -> None:
        """In a long silence no result says that there was nothing; so that a stream may die in it and nothing is missed."""
        if self._hearing.speaking:
            return
        known = self._vigil.without_speech(sent, self._hearing.reported)
        if known is not None:
            self._hearing.settle(known)
            self._flushes.wake(self._hearing.settled)
