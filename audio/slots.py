"""The port to a vendor's quota: so many streams at once and so many starts a second in a region, shared by all tasks.

A slot belongs to a session in a region, not to a stream: a session whose stream died opens the next one in the slot it has.

Source of the defaults: Amazon Transcribe, "Guidelines and quotas" (concurrent WebSocket and HTTP/2 streams; transactions
of StartStreamTranscription a second).
"""

from __future__ import annotations

import asyncio
import time
from bisect import insort
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import msgspec

from audio.engine import Throttled, Unavailable

HIGH: Final = "high"
MAX_WAITING: Final = 1_000


class RegionLimits(msgspec.Struct, frozen=True):
    """What a region allows: ``streams`` at once, and ``starts`` within any second."""

    streams: int = 25
    starts: int = 25


class Slot(Protocol):
    """A session's place in a region."""

    @property
    def region(self) -> str:
        """Where."""

    @property
    def held(self) -> bool:
        """True until ``release``, or until the slots were closed; nothing else takes a slot from a session."""

    async def restart(self) -> None:
        """Wait until the region's start rate allows another stream in this slot; such starts go before those of new sessions.

        Whoever shares the rate being out of reach, it does not wait. Cancelling gives the start up.

        Raises:
            Unavailable: the slot is not held any more.
        """

    def release(self) -> None:
        """Give the place back. Idempotent; never waits and never fails, so it may be called from a timer."""


class StreamSlots(Protocol):
    """Who may have a stream next."""

    async def acquire(self, regions: Sequence[str], *, session: str, priority: str, since: float) -> Slot:
        """Wait for a slot in the first of ``regions`` that has room and whose start rate allows it.

        The turn is by priority (``high`` before anything else), then by age, across all tasks: nobody gets a slot that one
        further in front would take. Who cannot be served in the regions asked for holds up nobody in others. The slot
        includes the start of one stream. It waits as long as it takes, also while whoever shares the slots is out of
        reach: a new session must not take a place that may be another's. Cancelling leaves the queue.

        Args:
            regions: in order of preference; each one is known.
            session: an opaque name.
            priority: ``high`` or ``normal``.
            since: when the session began, in seconds since 1970; 0: now.

        Raises:
            Throttled: too many wait already.
            Unavailable: the slots were closed.
            ValueError: there is no such region, or none is named.
        """

    def room_hint(self, regions: Sequence[str]) -> bool:
        """Whether ``acquire`` would succeed at once, as far as is known here."""


def turn(priority: str, since: float, now: float) -> tuple[int, float]:
    """What waiting sessions are ordered by, the smallest first; ``now`` in seconds since 1970."""
    return (0 if priority == HIGH else 1, since or now)


def check_regions(regions: Sequence[str], known: Mapping[str, RegionLimits]) -> None:
    """Refuse what ``acquire`` refuses."""
    if not regions or not set(regions) <= known.keys():
        raise ValueError("a slot is asked for in at least one region, and in known ones only")


class _Region:
    """What is taken in a region, and when streams were started there in the last second."""

    def __init__(self, limits: RegionLimits) -> None:
        self.limits: Final = limits
        self.taken = 0
        self.starts: deque[float] = deque()
        self.restarting: deque[asyncio.Future[None]] = deque()

    def forget_before(self, when: float) -> None:
        while self.starts and self.starts[0] <= when:
            self.starts.popleft()

    @property
    def may_start(self) -> bool:
        return len(self.starts) < self.limits.starts

    @property
    def has_place(self) -> bool:
        return self.taken < self.limits.streams


class _Waiter(msgspec.Struct, eq=False):
    order: tuple[int, float, int]
    regions: tuple[str, ...]
    given: asyncio.Future[LocalSlot]


class LocalSlot:
    """A slot of ``LocalSlots``."""

    def __init__(self, slots: LocalSlots, region: str) -> None:
        self._slots = slots
        self._region = region
        self._released = False

    @property
    def region(self) -> str:
        return self._region

    @property
    def held(self) -> bool:
        return not self._released and not self._slots.closed

    async def restart(self) -> None:
        if not self.held:
            raise Unavailable("slot_released", "the slot was given back")
        await self._slots.restart(self._region)

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._slots.give_back(self._region)


class LocalSlots:
    """The slots of one process that shares its quota with nobody. Times are the running loop's; belongs to that loop."""

    SECOND: Final = 1.0

    def __init__(
        self,
        regions: Mapping[str, RegionLimits],
        *,
        wall: Callable[[], float] = time.time,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """``max_waiting``: beyond so many that wait, ``acquire`` refuses."""
        self._limits: Final = dict(regions)
        self._regions: Final = {name: _Region(limits) for name, limits in regions.items()}
        self._wall: Final = wall
        self._max_waiting: Final = max_waiting
        self._waiting: list[_Waiter] = []
        self._asked = 0
        self._timer: asyncio.TimerHandle | None = None
        self.closed = False

    async def acquire(self, regions: Sequence[str], *, session: str, priority: str, since: float) -> Slot:
        del session
        check_regions(regions, self._limits)
        if self.closed:
            raise Unavailable("closed", "the slots were closed")
        if len(self._waiting) >= self._max_waiting:
            raise Throttled("queue_full", "too many sessions wait for a stream")
        self._asked += 1
        order = (*turn(priority, since, self._wall()), self._asked)
        waiter = _Waiter(order, tuple(regions), asyncio.get_running_loop().create_future())
        insort(self._waiting, waiter, key=lambda one: one.order)
        self._serve()
        try:
            return await waiter.given
        except asyncio.CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not waiter.given.cancelled() and waiter.given.exception() is None:
                waiter.given.result().release()
            raise

    def room_hint(self, regions: Sequence[str]) -> bool:
        self._forget()
        chosen = (self._regions[name] for name in regions)
        return not self.closed and any(one.has_place and one.may_start for one in chosen)

    async def restart(self, region: str) -> None:
        """Wait for a start in a region, before those who wait for a slot; see ``Slot.restart``."""
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._regions[region].restarting.append(started)
        self._serve()
        await started

    def give_back(self, region: str) -> None:
        """A slot is free."""
        self._regions[region].taken -= 1
        self._serve()

    def close(self) -> None:
        """End every wait with ``Unavailable``. Idempotent."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        waits: list[asyncio.Future[LocalSlot] | asyncio.Future[None]] = [one.given for one in self._waiting]
        waits += [started for one in self._regions.values() for started in one.restarting]
        for wait in waits:
            if not wait.done():
                wait.set_exception(Unavailable("closed", "the slots were closed"))
        self._waiting.clear()

    def _serve(self) -> None:
        if self.closed:
            return
        self._forget()
        now = asyncio.get_running_loop().time()
        for region in self._regions.values():
            while region.restarting and region.may_start:
                started = region.restarting.popleft()
                if not started.done():
                    region.starts.append(now)
                    started.set_result(None)
        # Who was cancelled but has not run since is passed over: it takes itself out of the queue.
        self._waiting = [one for one in self._waiting if one.given.cancelled() or not self._give(one, now)]
        self._look_again()

    def _give(self, waiter: _Waiter, now: float) -> bool:
        for name in waiter.regions:
            region = self._regions[name]
            if region.has_place and region.may_start:
                region.taken += 1
                region.starts.append(now)
                waiter.given.set_result(LocalSlot(self, name))
                return True
        return False

    def _forget(self) -> None:
        before = asyncio.get_running_loop().time() - self.SECOND
        for region in self._regions.values():
            region.forget_before(before)

    def _look_again(self) -> None:
        """Have the queue served when a start rate, and nothing else, holds somebody up."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wanted = {name for waiter in self._waiting for name in waiter.regions}
        held_up = [
            one
            for name, one in self._regions.items()
            if not one.may_start and (one.restarting or (one.has_place and name in wanted))
        ]
        if held_up:
            when = min(one.starts[0] for one in held_up) + self.SECOND
            self._timer = asyncio.get_running_loop().call_at(when, self._serve)
