"""From the ring through an engine to results: opens streams, has them fed, replaces those that die, and lets go in time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from random import Random
from typing import Final

import msgspec

from audio.coverage import Ranges
from audio.engine import Engine, EngineError, EngineStream, Rejected, StreamRequest
from audio.feeding import Feed, Flushes, resume_at
from audio.hearing import Hearing, TranscriberSink
from audio.hearing_attempts import Attempts
from audio.hearing_stream import CLOSED_BY_ENGINE, HearingStream
from audio.hearing_vigil import Patience
from audio.pacing import Backoff, BackoffLimits
from audio.pcm import SAMPLE_RATE
from audio.ring import RING_SAMPLES, Reader, Ring

__all__ = ["Transcriber", "TranscriberLimits", "TranscriberSink"]


class TranscriberLimits(msgspec.Struct, frozen=True):
    """Seconds, but for the last five, which are samples.

    Attributes:
        end: how long the rest may take once no audio follows.
        flush: how long ``flush`` waits.
        close: how long a stream may take to be closed.
        waiting: without a stream for so long, ``engine_waiting`` is told.
        tick: how often a blocked engine is looked at; what is less than ``gather`` waits for two of them at most.
        silent_stream: a stream that was sent speech for so long and reported nothing is taken for dead; None: never. See ``Patience``.
        backoff: between streams.
        gather: a stream is not sent less than this while more may come. See ``EngineCapabilities``.
        piece: the most that is sent at once.
        lag: half a ring; while more than this waits, an engine slower than real time is let go of.
        grace: so far behind real time is slower than real time: a busy machine's engine pauses for a second, and ``lag`` and
            this are less than a ring, so that the window of a speaker in real time never closes for it.
        margin: how far after the oldest sample hearing goes on when the writer has overtaken it.
    """

    end: float = 20.0
    flush: float = 10.0
    close: float = 2.0
    waiting: float = 1.0
    tick: float = 0.5
    silent_stream: float | None = None
    backoff: BackoffLimits = BackoffLimits()
    gather: int = 0
    piece: int = SAMPLE_RATE // 5
    lag: int = RING_SAMPLES // 2
    grace: int = 4 * SAMPLE_RATE
    margin: int = SAMPLE_RATE


class Transcriber:
    """One session's transcription. ``run`` is one task of the session; the rest is called by others on the same loop.

    A stream is opened when there is audio for it. The reader's position is what was *sent*, and holds the writer. A stream
    that dies or closes by itself is replaced after a pause and fed again from *settled* or from the oldest sample
    still there. An engine that is slower than real time while more than half a ring waits loses its hold, unless the
    session keeps no audio: then the window closes instead.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        request: StreamRequest,
        ring: Ring,
        reader: Reader,
        sink: TranscriberSink,
        language: str,
        settled: int,
        clock: Callable[[], float],
        rng: Random,
        limits: TranscriberLimits | None = None,
        next_ordinal: int = 1,
        keep_audio: bool = True,
    ) -> None:
        """``settled``: before it nothing is heard again. ``clock``: monotonic seconds. ``next_ordinal``: of the next result id."""
        self._engine: Final = engine
        self._request: Final = request
        self._sink: Final = sink
        self._clock: Final = clock
        self._limits: Final = limits or TranscriberLimits()
        self._transcribes: Final = engine.capabilities.transcribes
        self._hearing: Final = Hearing(
            sink, language=language, next_ordinal=next_ordinal, settled=settled, transcribes=self._transcribes
        )
        self._feed: Final = Feed(
            ring,
            reader,
            clock=clock,
            lag=self._limits.lag,
            margin=self._limits.margin,
            may_let_go=keep_audio,
            grace=self._limits.grace,
        )
        self._flushes: Final = Flushes()
        self._backoff: Final = Backoff(rng, self._limits.backoff)
        self._start: Final = max(reader.position, settled)
        self._stream: HearingStream | None = None
        self._patience: Final = Patience(self._limits.silent_stream)
        self._attempts: Final = Attempts(
            sink, waiting=self._limits.waiting, healthy=self._limits.backoff.healthy
        )
        self._opening = False
        self._died = False
        self._rejected = False
        self._wake: Final = asyncio.Event()
        self._ending: Final = asyncio.Event()
        self._over: Final = asyncio.Event()
        self._scope: asyncio.Timeout | None = None
        self._ticking: asyncio.TimerHandle | None = None
        self._ticked = -1

    @property
    def settled(self) -> int:
        """The end of the last final or of what is known to be without speech; never decreases."""
        return self._hearing.settled

    @property
    def sent(self) -> int:
        """The reader's position: what the present stream has taken; goes back for a replay."""
        return self._feed.position

    @property
    def live(self) -> Ranges:
        """What was heard live so far; grows."""
        return self._hearing.live

    def audio_arrived(self) -> None:
        """To be called after each write to the ring."""
        feed = self._feed
        if self._stream is None or feed.head - feed.position >= self._limits.gather:
            self._rouse()
        feed.look()

    def pause(self) -> None:
        """Have what was said so far made final; nothing answers."""
        self._flushes.ask(self._feed.head)
        self._rouse()

    async def flush(self) -> bool:
        """Wait until everything up to the head of now was given to the sink as finals; False when that took too long."""
        target = self._feed.head
        if max(self.settled, self._flushes.answered, self._start) >= target:
            return True
        if self._over.is_set() or self._rejected:
            return False
        self.pause()
        return await self._flushes.wait(target, self._limits.flush)

    async def end(self) -> None:
        """No audio follows. Returns when the rest was sent and its finals were given to the sink, or ``limits.end`` passed.

        What could not be heard by then stays untranscribed. May be called again; cancelling it does not take it back.
        """
        if not self._ending.is_set():
            self._ending.set()
            self._rouse()
            if self._scope is not None:
                self._scope.reschedule(asyncio.get_running_loop().time() + self._limits.end)
        try:
            async with asyncio.timeout(self._limits.end + self._limits.close):
                await self._over.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Transcribe until ``end`` was honoured or its time is up. Cancelling closes the stream, within ``limits.close``."""
        self._tick()
        try:
            async with asyncio.timeout(self._limits.end if self._ending.is_set() else None) as self._scope:
                await self._transcribe()
        except TimeoutError:
            if self._scope is None or not self._scope.expired():
                raise
        finally:
            self._scope = None
            if self._ticking is not None:
                self._ticking.cancel()
            self._feed.leave()
            self._flushes.give_up()
            self._over.set()

    async def _transcribe(self) -> None:
        while await self._needed():
            stream = await self._open()
            if stream is None:
                self._degrade()
                break
            error = await self._serve(stream)
            if error is None:
                return
            if self._rejected:
                self._degrade()
                break
            await asyncio.sleep(self._backoff.failed(self._clock(), error))
        await self._ending.wait()

    async def _needed(self) -> bool:
        """Wait for work that takes a stream; False: the end came, and there is none."""
        while not (self._has_work() or self._ending.is_set()):
            self._wake.clear()
            await self._wake.wait()
        return self._has_work()

    def _has_work(self) -> bool:
        feed = self._feed
        known = max(self.settled, self._start)
        if feed.head > max(feed.furthest, known):
            return True
        # A stream that closed by itself while nothing is said is not replaced until somebody wants something of it.
        wanted = (
            self._died or self._ending.is_set() or max(known, self._flushes.answered) < self._flushes.asked
        )
        return wanted and self._transcribes and known < feed.furthest

    async def _open(self) -> EngineStream | None:
        """Open a stream, however long it takes; None: the engine will never have one for this request."""
        self._attempts.wanted(self._clock(), self._engine.has_room)
        self._opening = True
        try:
            while True:
                try:
                    stream = await self._engine.open(self._request)
                except Rejected:
                    return None
                except EngineError as error:
                    await asyncio.sleep(self._backoff.failed(self._clock(), error))
                else:
                    self._backoff.opened(self._clock())
                    return stream
        finally:
            self._opening = False

    async def _serve(self, stream: EngineStream) -> EngineError | None:
        """Use a stream until it ends and close it; None: it ended because no audio follows."""
        try:
            hearing = self._begin(stream)
            error = await hearing.serve()
        finally:
            self._stream = None
            with contextlib.suppress(TimeoutError, EngineError):
                async with asyncio.timeout(self._limits.close):
                    await stream.close()
        if error is None:
            self._hearing.settle(self._feed.position)
        self._died = error is not None and error.code != CLOSED_BY_ENGINE
        self._rejected = self._attempts.ended(
            self._clock(), error, reported=hearing.reported, settled=self.settled
        )
        return error

    def _begin(self, stream: EngineStream) -> HearingStream:
        start = resume_at(self._feed, self._hearing, max(self.settled, self._start))
        self._hearing.begin(start)
        self._flushes.begin()
        self._stream = HearingStream(
            stream,
            feed=self._feed,
            hearing=self._hearing,
            flushes=self._flushes,
            ending=self._ending,
            clock=self._clock,
            piece=self._limits.piece,
            patience=self._patience,
            serves=self._attempts.serves,
        )
        self._attempts.opened(self._clock(), start, self.settled)
        return self._stream

    def _degrade(self) -> None:
        self._rejected = True
        self._feed.leave()
        self._flushes.give_up()
        message = "the speech engine refuses this session; from here it is recorded but not transcribed"
        self._sink.on_notice("engine_degraded", message, self.settled, None)

    def _rouse(self) -> None:
        self._wake.set()
        if self._stream is not None:
            self._stream.wake()

    def _tick(self) -> None:
        self._ticking = asyncio.get_running_loop().call_later(self._limits.tick, self._tick)
        self._feed.look()
        if self._stream is not None:
            self._stream.look()
            if self._feed.head == self._ticked:
                self._stream.wake()
        self._ticked = self._feed.head
        if self._opening or self._stream is not None:
            self._attempts.look(self._clock())
