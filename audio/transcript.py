"""What an engine heard, placed on the session's positions.

All ``start`` and ``end`` are positions in samples, ``0 <= start <= end``; ``end`` is exclusive.
"""

from __future__ import annotations

import msgspec


class Word(msgspec.Struct, frozen=True, omit_defaults=True):
    """One word. ``confidence`` is in 0..1."""

    text: str
    start: int
    end: int
    confidence: float
    speaker: str | None = None


class Partial(msgspec.Struct, frozen=True):
    """A result that may still change; it replaces the earlier partial of the same ``id``."""

    id: str
    start: int
    end: int
    text: str
    words: tuple[Word, ...] = ()
    language: str | None = None


class Final(msgspec.Struct, frozen=True):
    """A result that will not change. ``id`` is unique in the session, the same as its partials' id."""

    id: str
    start: int
    end: int
    text: str
    words: tuple[Word, ...]
    language: str


class CommittedFinal(msgspec.Struct, frozen=True):
    """A final with its place: ``seq`` counts 1, 2, 3 ... over the session; ``epoch`` is the owner's who committed it."""

    seq: int
    epoch: int
    final: Final
