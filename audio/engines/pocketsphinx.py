"""PocketSphinx, embedded: streams share a bounded pool of worker processes.

The decoder holds the interpreter's lock for up to a third of a second at a time, so it decodes in processes of its own and
the event loop never waits for it. A worker serves one stream at a time and is kept for the next one (96 MB each).
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Final

import msgspec

from audio.engine import (
    EngineCapabilities,
    EngineError,
    EngineEvent,
    EngineStream,
    Flushed,
    Rejected,
    StreamRequest,
    Unavailable,
)
from audio.engines.pocketsphinx_process import Worker
from audio.engines.pocketsphinx_wire import (
    AUDIO,
    END,
    FLUSH,
    Begun,
    Ended,
    Heard,
    Message,
    as_event,
)
from audio.pcm import SAMPLE_RATE, bytes_of, samples_of

CAPABILITIES: Final = EngineCapabilities(name="pocketsphinx", languages=frozenset({"en-US"}))

IN_FLIGHT_SAMPLES: Final = 2 * SAMPLE_RATE
"""``send`` waits while the worker has so much unheard."""

PIECE_SAMPLES: Final = SAMPLE_RATE // 2
"""The most that is sent at once, so that no more than 2.5 s are ever on their way."""


class PocketSphinxLimits(msgspec.Struct, frozen=True):
    """Seconds. ``start``: until a worker has loaded its model. ``answer``: a worker that has work says nothing for so long
    and is taken for hung. ``stop``: until a killed process is gone.
    """

    start: float = 60.0
    answer: float = 20.0
    stop: float = 5.0


def default_workers() -> int:
    """Two a core: a consultation is half silence, and decoding takes a sixth of a core's time."""
    return max(2, 2 * (os.cpu_count() or 1))


class PocketSphinxStream:
    """A stream that has a worker to itself. ``send`` proceeds as ``events`` is read: what is unread is bounded by the window."""

    def __init__(self, engine: PocketSphinxEngine, worker: Worker) -> None:
        self._engine = engine
        self._worker: Worker | None = worker
        self._loop = asyncio.get_running_loop()
        self._messages: deque[Message] = deque()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._sent = 0
        self._heard = 0
        self._read = 0
        self._flushes = 0
        self._began = asyncio.Event()
        self._ending = False
        self._over = False
        self._error: Unavailable | None = None
        self._watch: asyncio.TimerHandle | None = None
        self._progress = 0.0

    async def begin(self, limit: float) -> None:
        """Wait until the worker stands at the beginning of this stream.

        Raises:
            Unavailable: it died or did not answer within ``limit`` seconds.
        """
        assert self._worker is not None
        self._worker.begin(self)
        try:
            async with asyncio.timeout(limit):
                await self._began.wait()
        except TimeoutError:
            self._give_up(Unavailable("worker_slow", "the decoding process did not get ready in time"))
        if self._error is not None:
            raise self._error

    async def send(self, pcm: Sequence[memoryview]) -> None:
        for view in pcm:
            data = view.cast("B")
            for at in range(0, len(data), bytes_of(PIECE_SAMPLES)):
                await self._wait_for_room()
                piece = bytes(data[at : at + bytes_of(PIECE_SAMPLES)])
                self._sent += samples_of(len(piece))
                self._order(AUDIO, piece)

    async def flush(self) -> None:
        self._check()
        self._flushes += 1
        self._order(FLUSH)

    async def end(self) -> None:
        if self._ending:
            return
        self._check()
        self._ending = True
        self._order(END)

    async def events(self) -> AsyncIterator[EngineEvent]:
        while True:
            while self._messages:
                message = self._messages.popleft()
                if isinstance(message, Heard):
                    self._read = message.position
                    self._room.set()
                elif (event := as_event(message)) is not None:
                    yield event
            if self._error is not None:
                raise self._error
            if self._over:
                return
            self._arrived.clear()
            await self._arrived.wait()

    async def close(self) -> None:
        """At once: the worker drops what it has of this stream when it begins the next one."""
        self.fail(Unavailable("closed", "the stream was closed"))

    def receive(self, message: Message) -> None:
        """Take a message of the worker."""
        self._progress = self._loop.time()
        match message:
            case Begun():
                self._began.set()
                return
            case Heard(position=position):
                self._heard = position
            case Ended():
                self._over = True
                self._leave()
                return
            case _:
                self._flushes -= isinstance(as_event(message), Flushed)
        self._messages.append(message)
        self._arrived.set()

    def fail(self, error: Unavailable) -> None:
        """The worker is gone; what it said before can still be read."""
        if not self._over and self._error is None:
            self._error = error
        self._leave()

    def _order(self, kind: bytes, payload: bytes = b"") -> None:
        if self._worker is not None:
            self._worker.order(kind, payload)
            if self._watch is None:
                self._progress = self._loop.time()
                self._watch = self._loop.call_later(self._engine.limits.answer, self._look)

    def _look(self) -> None:
        self._watch = None
        if self._heard >= self._sent and not self._flushes and not self._ending:
            return
        left = self._progress + self._engine.limits.answer - self._loop.time()
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
        else:
            self._give_up(Unavailable("worker_hung", "the decoding process does not answer"))

    def _give_up(self, error: Unavailable) -> None:
        worker = self._worker
        self.fail(error)
        if worker is not None:
            worker.kill()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    async def _wait_for_room(self) -> None:
        self._check()
        while self._sent - self._read >= IN_FLIGHT_SAMPLES:
            self._room.clear()
            await self._room.wait()
            self._check()

    def _leave(self) -> None:
        worker, self._worker = self._worker, None
        for event in (self._began, self._arrived, self._room):
            event.set()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if worker is not None:
            worker.stream = None
            self._engine.give_back(worker)


class PocketSphinxEngine:
    """At most ``workers`` streams at a time, each with a process; processes start when first needed."""

    def __init__(self, workers: int | None = None, limits: PocketSphinxLimits | None = None) -> None:
        self.limits: Final = limits or PocketSphinxLimits()
        # Fair: those who wait are served in the order of their coming.
        self._places = asyncio.Semaphore(workers or default_workers())
        self._idle: list[Worker] = []
        self._workers: set[Worker] = set()
        self._closed = False

    @property
    def capabilities(self) -> EngineCapabilities:
        return CAPABILITIES

    async def open(self, request: StreamRequest) -> EngineStream:
        if request.language not in CAPABILITIES.languages:
            raise Rejected("language", "the embedded engine speaks en-US only")
        if request.vocabulary is not None:
            raise Rejected("vocabulary", "the embedded engine has no vocabularies")
        await self._places.acquire()
        try:
            worker = await self._take_worker()
        except BaseException:
            self._places.release()
            raise
        stream = PocketSphinxStream(self, worker)
        try:
            await stream.begin(self.limits.start)
        except BaseException:
            await stream.close()
            raise
        return stream

    async def warm(self) -> None:
        """Start a process before anybody needs it: loading its model takes a second or more. Failing does no harm."""
        with suppress(EngineError):
            stream = await self.open(StreamRequest(language="en-US", session="warm-up"))
            await stream.close()

    def has_room(self) -> bool:
        return not self._closed and not self._places.locked()

    async def close(self) -> None:
        self._closed = True
        for worker in self._workers:
            worker.kill()
        try:
            async with asyncio.timeout(self.limits.stop):
                for worker in self._workers:
                    await worker.gone.wait()
        except TimeoutError:
            # Nothing more can be done about a process that survives SIGKILL.
            return

    def give_back(self, worker: Worker) -> None:
        """A stream is done with its worker."""
        if worker.alive and not self._closed:
            self._idle.append(worker)
        self._places.release()

    async def _take_worker(self) -> Worker:
        if self._closed:
            raise Unavailable("closed", "the engine was closed")
        while self._idle:
            worker = self._idle.pop()
            if worker.alive:
                return worker
        self._workers = {worker for worker in self._workers if not worker.gone.is_set()}
        worker = Worker()
        self._workers.add(worker)
        await worker.start()
        return worker
