"""One stream of Amazon Transcribe: audio out in even frames, results in, and what keeps it alive between."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

from audio.engine import EngineError, EngineEvent, Flushed, Unavailable
from audio.engines.aws_errors import closed_by, error_of
from audio.engines.aws_events import END_OF_STREAM, MalformedEvent, Result, ServiceError, audio_event, decode
from audio.engines.aws_options import AwsLimits
from audio.engines.aws_results import Flushing, Results
from audio.engines.aws_socket import Connection
from audio.pcm import SAMPLE_RATE, bytes_of, position_of, samples_of

FRAME_BYTES_MIN: Final = bytes_of(SAMPLE_RATE // 10)
FRAME_BYTES_MAX: Final = bytes_of(SAMPLE_RATE // 5)
"""Audio is sent in frames of 100 to 200 ms; less only when no more comes. The service wants 50 to 200 ms, even, at most 1 s."""

KEEPALIVE_SAMPLES: Final = SAMPLE_RATE // 5
FLUSH_SAMPLES: Final = SAMPLE_RATE * 5 // 4
"""Silence that makes the service close a segment."""

UNREAD_MAX: Final = 256
"""Events that nobody has read at which reading from the service stops; it goes on below a quarter of that."""

CLOSED_BY_ENGINE: Final = "closed_by_engine"


class AwsStream:
    """A stream over one connection; whoever opened it calls ``tick`` every ``limits.tick`` seconds until it is closed.

    ``send`` waits while more is unsent than ``WRITE_BYTES``; what nobody reads is bounded by ``UNREAD_MAX`` events and one
    read from the socket. When the service takes nothing for ``limits.send`` seconds, the stream is dead.

    Being replaced: the service ends streams after 4 h, so an old one lets go by itself. Between two segments ``events``
    ends as when the service closes cleanly, and ``send`` fails from then on; nothing that is not yet in a final
    becomes one afterwards. The reader opens another stream and replays from what is settled.
    """

    def __init__(self, limits: AwsLimits, left: Callable[[AwsStream], None]) -> None:
        """``left`` is called once, when the stream is closed."""
        self._limits: Final = limits
        self._left: Final = left
        self._time: Final = asyncio.get_running_loop().time
        self._connection: Connection | None = None
        self._results: Final = Results()
        self._flushing: Final = Flushing(limits.quiet, limits.flush)
        self._buffer: Final = bytearray()
        self._events: Final[deque[EngineEvent]] = deque()
        self._arrived: Final = asyncio.Event()
        self._room: Final = asyncio.Event()
        self._room.set()
        self._full = False
        self._began = self._last_sent = self._blocked_since = self._time()
        self._silent_run = 0
        self._ended: float | None = None
        self._over = False
        self._error: EngineError | None = None
        self._closed = False

    async def send(self, pcm: Sequence[memoryview]) -> None:
        self._check()
        buffer = self._buffer
        for view in pcm:
            if not buffer and FRAME_BYTES_MIN <= view.nbytes <= FRAME_BYTES_MAX:
                await self._has_room()
                self._put_audio(view.cast("B"))
                continue
            buffer += view
            while len(buffer) >= FRAME_BYTES_MAX:
                await self._send_rest()
        if len(buffer) >= FRAME_BYTES_MIN:
            await self._send_rest()

    async def flush(self) -> None:
        self._check()
        if self._ended is not None:
            return
        while self._buffer:
            await self._send_rest()
        target = self._results.sent - self._silent_run
        while self._silent_run < FLUSH_SAMPLES:
            await self._has_room()
            self._send_silence(min(KEEPALIVE_SAMPLES, FLUSH_SAMPLES - self._silent_run))
        self._flushing.ask(target, self._time())
        self._answer()

    async def end(self) -> None:
        if self._ended is not None:
            return
        self._check()
        self._ended = self._time()
        while self._buffer:
            await self._send_rest()
        await self._has_room()
        self._ended = self._time()
        self._write(END_OF_STREAM)

    async def events(self) -> AsyncIterator[EngineEvent]:
        while True:
            while self._events:
                event = self._events.popleft()
                if self._full and len(self._events) <= UNREAD_MAX // 4:
                    self._set_full(False)
                yield event
            if self._error is not None:
                raise self._error
            if self._over:
                return
            self._arrived.clear()
            await self._arrived.wait()

    async def close(self) -> None:
        self.fail(Unavailable("closed", "the stream was closed"))
        if not self._closed:
            self._closed = True
            self._left(self)
        if self._connection is not None:
            self._connection.abort()
            await self._connection.gone()

    def fail(self, error: EngineError) -> None:
        """The stream is dead; what it reported before can still be read. Without effect once it is over."""
        if not self._over and self._error is None:
            self._error = error
            self._wake()
            if self._connection is not None:
                self._connection.abort()

    def tick(self) -> None:
        """See what time it is: keep the service supplied, give up what takes too long, ask to be replaced."""
        now, limits = self._time(), self._limits
        if self._over or self._error is not None:
            return
        if not self._room.is_set():
            if now - self._blocked_since > limits.send:
                self.fail(Unavailable("send_timeout", "the service takes no audio"))
        elif self._ended is not None:
            if now - self._ended > limits.end:
                self.fail(Unavailable("end_timeout", "the service did not close the stream after its end"))
        elif self._flushing.overdue(now):
            self.fail(Unavailable("flush_timeout", "the service does not finish a segment in silence"))
        elif self._must_be_replaced(now):
            self._replace()
        else:
            self._answer()
            self._keep_alive(now)

    # The connection calls these.

    def connected(self, connection: Connection) -> None:
        """See ``Receiver``."""
        self._connection = connection
        self._began = self._last_sent = self._time()

    def received(self, message: memoryview) -> None:
        """See ``Receiver``."""
        if self._over or self._error is not None:
            return
        try:
            said = decode(message)
        except MalformedEvent as error:
            self.fail(Unavailable("malformed", f"the service sent what cannot be read: {error}"))
            return
        if isinstance(said, ServiceError):
            self.fail(error_of(said))
        elif said:
            self._take(said)
            if len(self._events) >= UNREAD_MAX and not self._full:
                self._set_full(True)
            self._arrived.set()

    def lost(self, code: int | None) -> None:
        """See ``Receiver``."""
        if self._over or self._error is not None:
            return
        self._error = closed_by(code)
        self._over = self._error is None
        if self._over and self._ended is not None:
            self._flushed(self._flushing.end())
        self._wake()

    def blocked(self, waiting: bool) -> None:
        """See ``Receiver``."""
        if waiting:
            self._blocked_since = self._time()
            self._room.clear()
        else:
            self._room.set()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._over:
            raise Unavailable(CLOSED_BY_ENGINE, "the service closed the stream")

    async def _has_room(self) -> None:
        if not self._room.is_set():
            await self._room.wait()
        self._check()

    async def _send_rest(self) -> None:
        await self._has_room()
        self._put_rest()

    def _put_rest(self) -> None:
        """Send one frame of what waits; the caller has seen that there is room."""
        piece = self._buffer[:FRAME_BYTES_MAX]
        del self._buffer[:FRAME_BYTES_MAX]
        if piece:
            self._put_audio(piece)

    def _put_audio(self, pcm: bytearray | memoryview) -> None:
        # Noted first: a result may come before writing returns.
        self._results.audio(samples_of(len(pcm)))
        self._silent_run = 0
        self._write(audio_event(pcm))

    def _send_silence(self, samples: int) -> None:
        self._results.silence(samples)
        self._silent_run += samples
        self._write(audio_event(bytes(bytes_of(samples))))

    def _write(self, message: bytes) -> None:
        assert self._connection is not None
        self._last_sent = self._time()
        self._connection.send(message)

    def _keep_alive(self, now: float) -> None:
        quiet = now - self._last_sent
        if self._buffer and quiet >= self._limits.linger:
            self._put_rest()
        elif quiet >= self._limits.keepalive:
            self._send_silence(KEEPALIVE_SAMPLES)

    def _take(self, results: Sequence[Result]) -> None:
        if not self._flushing.waiting:
            self._events.extend(self._results.take(results))
            return
        for result in results:
            self._flushed(self._flushing.passed(self._results, position_of(result.start_time)))
            self._events.extend(self._results.take((result,)))
        self._flushing.heard(self._time())
        self._answer()

    def _answer(self) -> None:
        self._flushed(self._flushing.answered(self._results, self._time()))

    def _flushed(self, count: int) -> None:
        if count:
            self._events.extend(Flushed() for _ in range(count))
            self._arrived.set()

    def _must_be_replaced(self, now: float) -> bool:
        age = now - self._began
        between = not self._results.speaking and not self._flushing.waiting
        return (age >= self._limits.replace and between) or age >= self._limits.replace_latest

    def _replace(self) -> None:
        self._over = True
        self._write(END_OF_STREAM)
        self._wake()

    def _set_full(self, full: bool) -> None:
        self._full = full
        if self._connection is not None:
            self._connection.read(not full)

    def _wake(self) -> None:
        self._arrived.set()
        self._room.set()
