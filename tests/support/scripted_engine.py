"""An engine for tests: hears a made-up language, and fails where its script says so. Passes the contract suite of engines.

The language: a run of one non-zero sample value is a word (``w<value - LOUD>``), zeros are silence, and 0.2 s of silence end an
utterance. So what is heard follows from the samples alone, wherever a stream began.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from audio.engine import (
    EngineCapabilities,
    EngineError,
    EngineEvent,
    Flushed,
    Rejected,
    Settled,
    StreamRequest,
    StreamResult,
    StreamWord,
    Unavailable,
)
from audio.pcm import SAMPLE_RATE

PAUSE = SAMPLE_RATE // 5
LOUD = 1000


def tone(*words: int, seconds: float = 0.3, pause: float = 0.4) -> bytes:
    """An utterance of these words and the silence after it."""
    spoken = [np.full(int(seconds * SAMPLE_RATE), LOUD + word, np.int16) for word in words]
    return np.concatenate([*spoken, np.zeros(int(pause * SAMPLE_RATE), np.int16)]).tobytes()


@dataclass
class Script:
    """What happens to one stream. Samples are counted in it from its start.

    Attributes:
        open_error: ``open`` raises it.
        open_seconds: how long ``open`` takes.
        die_after: from this sample on it is dead: of ``error``, or closed cleanly when that is None.
        stall_after: from this sample on ``send`` waits for ``ScriptedEngine.go_on``.
        speed: how many times faster than real time it takes audio; None: at once.
        mute: hears, and reports nothing.
    """

    open_error: EngineError | None = None
    open_seconds: float = 0.0
    die_after: int | None = None
    error: EngineError | None = field(default_factory=lambda: Unavailable("scripted", "died as told"))
    stall_after: int | None = None
    speed: float | None = None
    mute: bool = False


class Hearer:
    """Samples in, events out."""

    def __init__(self) -> None:
        self.heard = 0
        self._value = 0
        self._since = 0
        self._words: list[StreamWord] = []
        self._named = 0

    def hear(self, samples: np.ndarray) -> list[EngineEvent]:
        """Takes samples."""
        events: list[EngineEvent] = []
        borders = np.flatnonzero(np.diff(samples)) + 1
        for start, end in zip([0, *borders], [*borders, len(samples)], strict=True):
            if end > start:
                events += self._run(int(samples[start]), int(end - start))
        if self._words:
            events.append(self._result(final=False))
        elif not self._value:
            events.append(Settled(self.heard))
        return events

    def finish(self) -> list[EngineEvent]:
        """Make final what was heard."""
        events = self._run(0, 0)
        return [*events, *self._final(), Settled(self.heard)]

    def _run(self, value: int, count: int) -> list[EngineEvent]:
        if value != self._value:
            if self._value:
                self._words.append(StreamWord(f"w{self._value - LOUD}", self._since, self.heard, 0.9))
            self._value, self._since = value, self.heard
        self.heard += count
        if not value and self._words and self.heard - self._since >= PAUSE:
            return self._final()
        return []

    def _final(self) -> list[EngineEvent]:
        if not self._words:
            return []
        result = self._result(final=True)
        self._words = []
        self._named += 1
        return [result, Settled(result.end)]

    def _result(self, *, final: bool) -> StreamResult:
        words = tuple(self._words)
        text = " ".join(word.text for word in words)
        return StreamResult(f"r{self._named}", words[0].start, words[-1].end, text, final, words)


class ScriptedStream:
    """See ``Script``."""

    def __init__(self, engine: ScriptedEngine, script: Script) -> None:
        self._engine = engine
        self._script = script
        self._hearer = Hearer()
        self._events: deque[EngineEvent] = deque()
        self._changed = asyncio.Event()
        self._ended = False
        self._over = False
        self._error: EngineError | None = None
        self.closed = False

    async def send(self, pcm: Sequence[memoryview]) -> None:
        self._check()
        samples = np.concatenate([np.frombuffer(bytes(view), np.int16) for view in pcm])
        script = self._script
        if script.stall_after is not None and self._hearer.heard + len(samples) > script.stall_after:
            await self._engine.going.wait()
            self._check()
        if script.speed is not None:
            await asyncio.sleep(len(samples) / SAMPLE_RATE / script.speed)
            self._check()
        left = None if script.die_after is None else script.die_after - self._hearer.heard
        self._report(self._hearer.hear(samples[:left]))
        if left is not None and left <= len(samples):
            self.die()

    async def flush(self) -> None:
        self._check()
        self._report([*self._hearer.finish(), Flushed()])

    async def end(self) -> None:
        if self._ended:
            return
        self._check()
        self._ended = True
        self._report(self._hearer.finish())
        self._over = True

    async def events(self) -> AsyncIterator[EngineEvent]:
        while True:
            while self._events:
                yield self._events.popleft()
            if self._error is not None:
                raise self._error
            if self._over:
                return
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        self.abort(Unavailable("closed", "the stream was closed"))

    def die(self) -> None:
        """As the script says."""
        self._over = True
        self._error = self._script.error
        self._changed.set()

    def abort(self, error: EngineError) -> None:
        """Give the place back; late results are lost."""
        if not self._over:
            self._error = error
        self._over = True
        self._changed.set()
        if not self.closed:
            self.closed = True
            self._engine.give_back()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        if self._over:
            raise Unavailable("closed_by_engine", "the stream is over")

    def _report(self, events: Iterable[EngineEvent]) -> None:
        if not self._script.mute:
            self._events.extend(events)
        self._changed.set()


class ScriptedEngine:
    """Its ``n``-th stream follows the ``n``-th script; later ones work."""

    capabilities = EngineCapabilities(name="scripted", languages=frozenset({"en-US", "ja-JP"}))

    def __init__(self, *scripts: Script, places: int = 1000) -> None:
        self._scripts = deque(scripts)
        self._places = asyncio.Semaphore(places)
        self._closed = False
        self.going = asyncio.Event()
        self.streams: list[ScriptedStream] = []
        self.opened_at: list[float] = []

    async def open(self, request: StreamRequest) -> ScriptedStream:
        self.opened_at.append(asyncio.get_running_loop().time())
        if request.language not in self.capabilities.languages:
            raise Rejected("language", "not one of its languages")
        await self._places.acquire()
        try:
            script = self._scripts.popleft() if self._scripts else Script()
            await asyncio.sleep(script.open_seconds)
            if script.open_error is not None:
                raise script.open_error
            if self._closed:
                raise Unavailable("closed", "the engine was closed")
        except BaseException:
            self._places.release()
            raise
        stream = ScriptedStream(self, script)
        self.streams.append(stream)
        return stream

    def has_room(self) -> bool:
        return not self._closed and not self._places.locked()

    def go_on(self) -> None:
        """Stalled streams take audio again."""
        self.going.set()

    def give_back(self) -> None:
        """A place is free."""
        self._places.release()

    async def close(self) -> None:
        self._closed = True
        for stream in self.streams:
            stream.abort(Unavailable("closed", "the engine was closed"))
