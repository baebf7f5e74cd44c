"""One stream of a regional engine: what becomes of it is told to the region's breaker and to the session's place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from audio.breaker import Attempt
from audio.engine import EngineError, EngineEvent, EngineStream, Rejected
from audio.pcm import samples_of


class RegionalStream:
    """A region's stream. Adds nothing to what it carries."""

    def __init__(
        self,
        inner: EngineStream,
        *,
        attempt: Attempt,
        clock: Callable[[], float],
        mute: int,
        leave: Callable[[bool], None],
    ) -> None:
        """``mute``: a stream that took so many samples since it last reported anything, and is closed without having been told
        the end, was dead. ``leave`` is called once, with whether the session has all it wanted.
        """
        self._inner: Final = inner
        self._attempt: Final = attempt
        self._clock: Final = clock
        self._mute: Final = mute
        self._leave: Final = leave
        self._unanswered = 0
        self._told_end = False
        self._finished = False
        self._closing = False

    async def send(self, pcm: Sequence[memoryview]) -> None:
        try:
            await self._inner.send(pcm)
        except EngineError as error:
            self._died(error)
            raise
        self._unanswered += samples_of(sum(view.nbytes for view in pcm))

    async def flush(self) -> None:
        try:
            await self._inner.flush()
        except EngineError as error:
            self._died(error)
            raise

    async def end(self) -> None:
        self._told_end = True
        try:
            await self._inner.end()
        except EngineError as error:
            self._died(error)
            raise

    async def events(self) -> AsyncIterator[EngineEvent]:
        try:
            async for event in self._inner.events():
                self._unanswered = 0
                yield event
        except EngineError as error:
            self._died(error)
            raise
        if self._told_end:
            self._finished = True
        elif not self._closing:
            self._attempt.failed(self._clock())

    async def close(self) -> None:
        if self._closing:
            await self._inner.close()
            return
        self._closing = True
        # A stream that told of its own death was judged then; this is ignored.
        if not self._told_end and self._unanswered >= self._mute:
            self._attempt.failed(self._clock())
        else:
            self._attempt.ended(self._clock())
        try:
            await self._inner.close()
        finally:
            self._leave(self._finished)

    def _died(self, error: EngineError) -> None:
        if isinstance(error, Rejected):
            self._attempt.ended(self._clock())
        elif not self._closing:
            self._attempt.failed(self._clock())
