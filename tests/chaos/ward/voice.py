"""What is said, what comes of it, and from when on it is waited for."""

from __future__ import annotations

from typing import NamedTuple

from tests.chaos.ward.line import Line

RATE = 16_000


class Final(NamedTuple):
    """A final, as it was on the wire."""

    seq: int
    id: str
    start: int
    end: int
    text: str


class Voice:
    """A recording that is spoken round and round, from any sample of it."""

    def __init__(self, pcm: bytes) -> None:
        self._twice = memoryview(pcm + pcm)
        self.samples = len(pcm) // 2

    def said(self, offset: int, start: int, end: int) -> bytes:
        """What somebody said between two positions who began at ``offset``."""
        parts = []
        while start < end:
            at = (offset + start) % self.samples
            take = min(end - start, self.samples)
            parts.append(self._twice[2 * at : 2 * (at + take)])
            start += take
        return b"".join(parts)


class Mark(NamedTuple):
    """A moment, what had been shown by then, the connection that was open, and whether the moment is its end that is to come."""

    moment: float
    shown: int
    line: Line | None
    from_end: bool
