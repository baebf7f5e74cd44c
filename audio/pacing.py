"""When the transcriber gives way: to a recorder it would hold up, to an engine that needs a rest. No clock of its own."""

from __future__ import annotations

from random import Random
from typing import Final

import msgspec

from audio.engine import EngineError, Throttled
from audio.pcm import SAMPLE_RATE


class LagGuard:
    """Tells a slow engine from a fast speaker.

    While more than ``allowed`` samples wait, an engine must take them faster than real time; once it has fallen ``grace`` samples
    behind that since it was first seen, the recorder must not be held up any longer.
    """

    def __init__(self, allowed: int, grace: int = SAMPLE_RATE) -> None:
        self._allowed = allowed
        self._grace = grace
        self._since: tuple[float, int] | None = None

    def must_let_go(self, now: float, lag: int, sent: int) -> bool:
        """Whether to let go; ``now`` in seconds, ``lag`` in samples, ``sent`` a position that only ``forget`` lets go back."""
        if lag <= self._allowed:
            self._since = None
            return False
        if self._since is None:
            self._since = (now, sent)
        began, sent_then = self._since
        return (now - began) * SAMPLE_RATE > sent - sent_then + self._grace

    def forget(self) -> None:
        """Positions jumped: what was seen means nothing any more."""
        self._since = None


class BackoffLimits(msgspec.Struct, frozen=True):
    """Seconds: the first delay's upper bound, the highest one, and how long a stream must last to count as recovery."""

    first: float = 0.1
    ceiling: float = 5.0
    healthy: float = 10.0


class Backoff:
    """How long to wait before the next stream: exponential with full jitter, never before a throttling engine allows it."""

    def __init__(self, rng: Random, limits: BackoffLimits | None = None) -> None:
        self._rng: Final = rng
        self._limits: Final = limits or BackoffLimits()
        self._failures = 0
        self._opened: float | None = None

    def opened(self, now: float) -> None:
        """A stream was opened."""
        self._opened = now

    def failed(self, now: float, error: EngineError) -> float:
        """Opening failed or the open stream died; gives the seconds to wait."""
        if self._opened is not None and now - self._opened >= self._limits.healthy:
            self._failures = 0
        self._opened = None
        highest = min(self._limits.ceiling, self._limits.first * 2.0 ** min(self._failures, 32))
        self._failures += 1
        delay = self._rng.uniform(0.0, highest)
        # Jitter on top, so that all the streams that were throttled together do not come back together.
        return error.retry_after + delay if isinstance(error, Throttled) else delay
