"""The port to a speech engine, shaped for Amazon Transcribe Streaming.

Everything a stream reports is in *stream samples*: samples counted from the first one
sent into that stream, starting at 0 with each stream. ``audio.timeline`` turns them
into positions of the session.

Source of the shape: Amazon Transcribe Developer Guide, "Transcribing streaming audio"
(partial results that replace one another by ``ResultId``, items with times and
confidence, streams that end by an exception frame or a clean close).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

import msgspec


class StreamWord(msgspec.Struct, frozen=True):
    """One word in stream samples; ``confidence`` in 0..1."""

    text: str
    start: int
    end: int
    confidence: float
    speaker: str | None = None


class StreamResult(msgspec.Struct, frozen=True):
    """A hypothesis for one stretch of speech, in stream samples.

    Results of the same ``id`` replace one another until one has ``final`` set; after
    that the id is not used again. Finals come in the order of their speech and do not overlap.
    """

    id: str
    start: int
    end: int
    text: str
    final: bool
    words: tuple[StreamWord, ...] = ()
    language: str | None = None


class Settled(msgspec.Struct, frozen=True):
    """Everything before stream sample ``position`` is in a final or known to be without speech."""

    position: int


class Flushed(msgspec.Struct, frozen=True):
    """Answer to ``flush``: all that was sent before it is in finals that came before this."""


EngineEvent = StreamResult | Settled | Flushed


class EngineCapabilities(msgspec.Struct, frozen=True):
    """What an engine can do.

    Attributes:
        name: the value of ``KIKITORI_ENGINE``.
        languages: BCP 47 tags; empty means any.
        transcribes: False for an engine that only lets audio pass (``null``).
        speaker_labels: whether words may carry a speaker.
        vocabularies: whether a request may name a vocabulary.
        mute_seconds: a stream that hears so much speech and reports nothing is dead; None where that is no sign.
        gather: samples that a stream had better be sent at once; fewer when no more come soon.
    """

    name: str
    languages: frozenset[str]
    transcribes: bool = True
    speaker_labels: bool = False
    vocabularies: bool = False
    mute_seconds: float | None = None
    gather: int = 0


class StreamRequest(msgspec.Struct, frozen=True):
    """What a stream is opened for. ``language`` is a BCP 47 tag the engine has."""

    language: str
    session: str
    """An opaque name of the session, for the engine's own logs; no content."""
    vocabulary: str | None = None
    speaker_labels: bool = False
    regions: tuple[str, ...] = ()
    """Where the session's audio may be heard; empty: in any region that the engine has. The engine's own order of preference holds."""
    priority: str = "normal"
    """``high`` goes before ``normal`` while places are short."""
    since: float = 0.0
    """When the session began, in seconds since 1970: of two that wait the older one goes first. 0: it counts from the asking."""


class EngineError(Exception):
    """Root of what an engine may fail with; a value that the session handles, never a bug.

    ``code`` is a stable word for logs and labels; the text holds nothing that was said.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Throttled(EngineError):
    """Too many streams or starts; try again after ``retry_after`` seconds at the earliest."""

    def __init__(self, code: str, message: str, retry_after: float = 1.0) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


class Unavailable(EngineError):
    """The engine is away or this stream died; another stream may work."""


class Rejected(EngineError):
    """The request itself is wrong (language, vocabulary, permission): trying again will not help."""


class EngineStream(Protocol):
    """One open stream. ``send``, ``flush`` and ``end`` are called by one task, ``events`` is read by another."""

    async def send(self, pcm: Sequence[memoryview]) -> None:
        """Send audio, in order; the views may be reused once this returns.

        Waits while the engine takes no more (back-pressure).

        Raises:
            Unavailable: the stream is dead.
        """

    async def flush(self) -> None:
        """Ask for finals of all that was sent; answered by a ``Flushed`` among the events."""

    async def end(self) -> None:
        """Tell the engine that no audio follows; its last finals still come, then ``events`` ends. Idempotent."""

    def events(self) -> AsyncIterator[EngineEvent]:
        """What the engine reports, in order. Ends after ``end()`` was honoured or when the engine closed cleanly.

        Raises (from iteration):
            Throttled, Unavailable, Rejected: the stream ended by an error.
        """

    async def close(self) -> None:
        """Give everything back at once; late results are lost. Idempotent, cancellation-safe."""


class Engine(Protocol):
    """A speech engine shared by the sessions of a task."""

    @property
    def capabilities(self) -> EngineCapabilities:
        """Constant over the engine's life."""

    async def open(self, request: StreamRequest) -> EngineStream:
        """Open a stream. While no place is free it waits its turn, first come first served; cancelling gives up the place.

        Raises:
            Throttled, Unavailable, Rejected: see there.
        """

    def has_room(self) -> bool:
        """Whether ``open`` would get a place at once (a hint: the answer may be old by then)."""

    async def close(self) -> None:
        """End every stream and worker. Idempotent."""
