"""When a region that fails is left alone, and how it is tried again. Plain code: the clock's reading is passed in."""

from __future__ import annotations

from collections import deque
from enum import Enum
from random import Random
from typing import Final

import msgspec


class BreakerState(Enum):
    """``CLOSED``: all may go. ``OPEN``: nobody may. ``HALF_OPEN``: one at a time may, to see."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


_NEXT: Final = {
    BreakerState.CLOSED: {BreakerState.OPEN},
    BreakerState.OPEN: {BreakerState.HALF_OPEN},
    BreakerState.HALF_OPEN: {BreakerState.CLOSED, BreakerState.OPEN},
}


class BreakerLimits(msgspec.Struct, frozen=True):
    """Seconds, but for ``failures``.

    Attributes:
        failures: so many in a row, none older than ``window``, open the breaker.
        window: how long a failure is remembered.
        healthy: a stream that lived so long is a success, and nothing shorter is.
        cool_down: how long it stays open the first time; doubles with each probe that fails. The true time is
            between half of it and all of it, so that tasks do not probe together.
        longest: what doubling ends at.
    """

    failures: int = 5
    window: float = 60.0
    healthy: float = 10.0
    cool_down: float = 5.0
    longest: float = 60.0


class Attempt:
    """One stream from the moment before it is opened. Whoever began it says ``failed`` or ``ended``, once; more is ignored."""

    __slots__ = ("_breaker", "generation")

    def __init__(self, breaker: CircuitBreaker, generation: int) -> None:
        self._breaker = breaker
        self.generation: Final = generation

    def opened(self, now: float) -> None:
        """The stream is open; its life begins."""
        self._breaker.opened(self, now)

    def failed(self, now: float) -> None:
        """It could not be opened, or it died: a failure unless it had lived ``healthy`` seconds."""
        self._breaker.failed(self, now)

    def ended(self, now: float) -> None:
        """It is over by our own wish: nothing is learned from it, unless it had lived ``healthy`` seconds."""
        self._breaker.ended(self, now)


class CircuitBreaker:
    """One region's. ``now`` is monotonic seconds and never goes back from call to call.

    What comes of an attempt that was begun before the state last changed counts for nothing.
    """

    def __init__(self, rng: Random, limits: BreakerLimits | None = None) -> None:
        self._rng: Final = rng
        self._limits: Final = limits or BreakerLimits()
        self._state = BreakerState.CLOSED
        self._generation = 0
        self._failures: deque[float] = deque(maxlen=self._limits.failures)
        self._opening: set[Attempt] = set()
        # In the order in which they were opened; they leave at ``healthy``, so the start rate bounds them.
        self._young: dict[Attempt, float] = {}
        self._cool_down = self._limits.cool_down
        self._until = 0.0

    def state(self, now: float) -> BreakerState:
        """The state; a breaker whose cool-down has passed is open until somebody begins the probe."""
        self._catch_up(now)
        return self._state

    def may_begin(self, now: float) -> bool:
        """Whether ``begin`` would give an attempt."""
        state = self.state(now)
        if state is BreakerState.OPEN:
            return now >= self._until
        return state is BreakerState.CLOSED or self._probe() is None

    def begin(self, now: float) -> Attempt | None:
        """Be let through, as the probe if there must be one; None: not now."""
        if not self.may_begin(now):
            return None
        if self._state is BreakerState.OPEN:
            self._go(BreakerState.HALF_OPEN)
        attempt = Attempt(self, self._generation)
        self._opening.add(attempt)
        return attempt

    def wait(self, now: float) -> float:
        """Seconds after which it is worth asking again: 0, the rest of the cool-down, or until the probe is judged."""
        if self.may_begin(now):
            return 0.0
        if self._state is BreakerState.OPEN:
            return self._until - now
        probe = self._probe()
        return (
            self._limits.healthy
            if probe is None
            else self._young.get(probe, now) + self._limits.healthy - now
        )

    def opened(self, attempt: Attempt, now: float) -> None:
        """See ``Attempt.opened``."""
        self._catch_up(now)
        if attempt in self._opening:
            self._opening.discard(attempt)
            self._young[attempt] = now

    def failed(self, attempt: Attempt, now: float) -> None:
        """See ``Attempt.failed``."""
        if not self._finish(attempt, now) or attempt.generation != self._generation:
            return
        if self._state is BreakerState.HALF_OPEN:
            self._cool_down = min(2.0 * self._cool_down, self._limits.longest)
            self._open(now)
            return
        self._failures.append(now)
        if len(self._failures) == self._limits.failures and now - self._failures[0] <= self._limits.window:
            self._open(now)

    def ended(self, attempt: Attempt, now: float) -> None:
        """See ``Attempt.ended``."""
        self._finish(attempt, now)

    def _finish(self, attempt: Attempt, now: float) -> bool:
        """Let go of an attempt; False: it was judged before."""
        self._catch_up(now)
        known = attempt in self._opening or attempt in self._young
        self._opening.discard(attempt)
        self._young.pop(attempt, None)
        return known

    def _catch_up(self, now: float) -> None:
        """Count the successes that nobody reports: streams that became ``healthy`` seconds old."""
        while self._young:
            attempt, opened = next(iter(self._young.items()))
            if now - opened < self._limits.healthy:
                return
            del self._young[attempt]
            if attempt.generation == self._generation:
                self._succeed()

    def _succeed(self) -> None:
        self._failures.clear()
        if self._state is BreakerState.HALF_OPEN:
            self._cool_down = self._limits.cool_down
            self._go(BreakerState.CLOSED)

    def _open(self, now: float) -> None:
        self._go(BreakerState.OPEN)
        self._failures.clear()
        self._until = now + self._cool_down * self._rng.uniform(0.5, 1.0)

    def _probe(self) -> Attempt | None:
        """The attempt that a half-open breaker waits for."""
        return next(
            (one for one in (*self._opening, *self._young) if one.generation == self._generation), None
        )

    def _go(self, state: BreakerState) -> None:
        if state not in _NEXT[self._state]:
            raise ValueError(f"a breaker does not go from {self._state.value} to {state.value}")
        self._state = state
        self._generation += 1
