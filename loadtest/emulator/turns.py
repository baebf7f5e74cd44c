"""The emulator's clock: calls at their time, and in a crowd in turns.

Each wake-up of a process costs more than what there is to do in it: the system call, and caches that others have filled. A network card
in front of a crowd gathers what comes and interrupts seldom; so does this clock. While there is a crowd, the process sleeps for most of
``turn`` seconds, reads all that has come, then works on all that it has read, then makes all calls that are due: each is cheaper when
much of the same is done in a row.

What is read is then up to one turn old. To make up for it, a call is made in the first turn that lies less than one turn before its
time. So what is sent at a set time after what was received is sent at that time on average, at most a turn earlier or later.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from typing import Final

_RESOLUTION: Final = 0.001
"""Event loops count milliseconds: a call of theirs may come so much early."""


class Call:
    """A call that has not been made yet."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Do not make it."""
        self.callback = None


class Turns:
    """The clock of one event loop, all calls from which it is used.

    Args:
        loop: wakes it up.
        turn: seconds; 0: there are no turns.
        sleep: stops the process for some seconds. The loop does nothing meanwhile: it must have nothing else to do.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, turn: float, *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._loop = loop
        self._turn = turn
        self._sleep = sleep
        self._ahead = _RESOLUTION
        self._calls: list[tuple[float, int, Call]] = []
        self._numbers = count()
        # No more than one turn reads from the open connections.
        self._work: deque[tuple[Callable[[bytes], object], bytes]] = deque()
        self._alarm: asyncio.TimerHandle | None = None
        self._crowded = self._turning = False
        self._wake_at = 0.0

    def time(self) -> float:
        """Seconds, monotonic."""
        return self._loop.time()

    def horizon(self) -> float:
        """What is due until then is due now."""
        return self._loop.time() + self._ahead

    def call_at(self, when: float, callback: Callable[[], object], /) -> Call:
        """Call back at a time, or soon when it is past; in the order of these times."""
        call = Call(callback)
        heappush(self._calls, (when, next(self._numbers), call))
        if not self._turning and self._calls[0][2] is call:
            self._set_alarm()
        return call

    def work(self, job: Callable[[bytes], object], data: bytes) -> None:
        """Do ``job`` with what has been read: at once, or when all is read, in the order of these calls."""
        if self._turning:
            self._work.append((job, data))
        else:
            job(data)

    def catch_up(self) -> None:
        """Do all that was put off. To be called before anything that must come after what was read."""
        work = self._work
        while work:
            job, data = work.popleft()
            job(data)

    def crowd(self, *, crowded: bool) -> None:
        """Say whether there is a crowd."""
        self._crowded = crowded and self._turn > 0
        if self._crowded and not self._turning:
            self._turning = True
            self._ahead = self._turn
            self._wake_at = self._loop.time()
            self._loop.call_soon(self._take_turn)

    def close(self) -> None:
        """Do what was put off and make no more calls."""
        self._crowded = False
        self.catch_up()
        self._calls.clear()
        self._set_alarm()

    def _take_turn(self) -> None:
        try:
            self.catch_up()
            self._make_calls()
        finally:
            if self._crowded:
                now = self._loop.time()
                self._wake_at = max(self._wake_at + self._turn, now)
                self._sleep(self._wake_at - now)
                self._loop.call_soon(self._take_turn)
            else:
                self._turning = False
                self._ahead = _RESOLUTION
                self._set_alarm()

    def _ring(self) -> None:
        self._alarm = None
        if not self._turning:
            try:
                self._make_calls()
            finally:
                self._set_alarm()

    def _make_calls(self) -> None:
        calls, horizon = self._calls, self.horizon()
        while calls and calls[0][0] <= horizon:
            callback = heappop(calls)[2].callback
            if callback is not None:
                callback()

    def _set_alarm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(self._calls[0][0], self._ring) if self._calls else None
