"""Stream slots shared by all tasks, as leases in Redis that expire with a dead task.

Each process has one conversation with Redis for all of its sessions: it takes its turn when something changed here, every
tenth of a second while somebody waits, and else once a second; and it renews all of its leases together.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from random import Random
from typing import Final

import msgspec

from app.adapters import redis_slot_scripts as scripts
from app.adapters.redis_client import Client
from app.adapters.redis_slot_calls import RedisSlotTimes, RegionUse, SlotCalls, SlotStats, SlotsUnavailable
from audio.engine import Throttled, Unavailable
from audio.slots import MAX_WAITING, RegionLimits, Slot, check_regions, turn

__all__ = ["RedisSlot", "RedisSlotTimes", "RedisSlots", "RegionUse", "SlotStats"]


class _Waiter(msgspec.Struct, eq=False):
    score: float
    given: asyncio.Future[RedisSlot]
    entered: bool = False


class RedisSlot:
    """A slot of ``RedisSlots``; ``name`` is its lease's."""

    def __init__(self, slots: RedisSlots, name: str, region: str) -> None:
        self._slots = slots
        self._region = region
        self.name: Final = name

    @property
    def region(self) -> str:
        return self._region

    @property
    def held(self) -> bool:
        return self._slots.holds(self)

    async def restart(self) -> None:
        if not self.held:
            raise Unavailable("slot_released", "the slot was given back")
        await self._slots.restart(self._region)

    def release(self) -> None:
        self._slots.give_back(self)


class RedisSlots:
    """StreamSlots on Redis; they are given while ``run`` runs.

    While Redis is away held slots stay held, starts in them are not limited, and nobody new gets one. A Redis that comes back
    empty is told of every slot held, whatever the quota says; what is above it is counted, and nothing new is given until
    the tasks have had time to come back.
    """

    def __init__(
        self,
        client: Client,
        regions: Mapping[str, RegionLimits],
        *,
        holder: str,
        rng: Random,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        times: RedisSlotTimes | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        """Nothing is asked of Redis yet; whoever made the client closes it.

        Args:
            client: at most one of its connections is used at a time.
            regions: all that may be asked for. Every task gives the same ones the same limits.
            holder: names this life of this process, as no other was or will be named (the task and something random).
            rng: jitter.
            clock: monotonic seconds.
            wall: seconds since 1970.
            times: see there.
            max_waiting: beyond so many that wait here, ``acquire`` refuses.

        Raises:
            ValueError: a name that the names in Redis cannot be made of.
        """
        self._times: Final = times or RedisSlotTimes()
        self._calls: Final = SlotCalls(client, regions, holder, self._times)
        self._regions: Final = dict(regions)
        self._rng: Final = rng
        self._clock: Final = clock
        self._wall: Final = wall
        self._max_waiting: Final = max_waiting
        self._asked = 0
        self._waiting: dict[str, _Waiter] = {}
        self._held: dict[str, RedisSlot] = {}
        self._gone: set[str] = set()
        self._restarts: dict[str, deque[asyncio.Future[None]]] = {name: deque() for name in regions}
        self._use: dict[str, RegionUse] = {name: RegionUse() for name in regions}
        self._wake: Final = asyncio.Event()
        self._known = False
        self._away = True
        self._closed = False
        self._renewed = 0.0
        self._reentered = 0
        self._over_quota = 0

    async def run(self) -> None:
        """Talk to Redis until cancelled, once; slots are given meanwhile, so it outlives the sessions.

        At its end every wait ends with ``Unavailable``, and all slots are given back, within the time of one call.
        """
        try:
            while True:
                await self._round()
        finally:
            await self._close()

    async def acquire(self, regions: Sequence[str], *, session: str, priority: str, since: float) -> Slot:
        del session
        check_regions(regions, self._regions)
        if self._closed:
            raise Unavailable("closed", "the slots were closed")
        if len(self._waiting) >= self._max_waiting:
            raise Throttled("queue_full", "too many sessions wait for a stream")
        self._asked += 1
        name = self._calls.name(self._asked, regions)
        score = scripts.score(*turn(priority, since, self._wall()))
        waiter = self._waiting[name] = _Waiter(score, asyncio.get_running_loop().create_future())
        self._wake.set()
        try:
            return await waiter.given
        except asyncio.CancelledError:
            self._leave(name, waiter)
            raise

    def room_hint(self, regions: Sequence[str]) -> bool:
        if self._away or self._closed or self._waiting:
            return False
        return any(self._use[name].free for name in regions)

    @property
    def stats(self) -> SlotStats:
        """As of now."""
        return SlotStats(
            held=len(self._held),
            waiting=len(self._waiting),
            away=self._away,
            reentered=self._reentered,
            over_quota=self._over_quota,
            regions=dict(self._use),
        )

    def holds(self, slot: RedisSlot) -> bool:
        """Whether the slot is held."""
        return slot.name in self._held

    async def restart(self, region: str) -> None:
        """Wait for a start in a region; see ``Slot.restart``."""
        if self._away or self._closed:
            return
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._restarts[region].append(started)
        self._wake.set()
        await started

    def give_back(self, slot: RedisSlot) -> None:
        """The slot is free; Redis is told with the next turn."""
        if self._held.pop(slot.name, None) is not None:
            self._gone.add(slot.name)
            self._wake.set()

    async def _round(self) -> None:
        self._wake.clear()
        try:
            await self._talk()
        except SlotsUnavailable:
            self._lose()
            await asyncio.sleep(self._jittered(self._times.beat))
            return
        busy = self._waiting or any(self._restarts.values())
        with suppress(TimeoutError):
            async with asyncio.timeout(self._jittered(self._times.poll if busy else self._times.beat)):
                await self._wake.wait()

    async def _close(self) -> None:
        self._closed = True
        for waiter in self._waiting.values():
            if not waiter.given.done():
                waiter.given.set_exception(Unavailable("closed", "the slots were closed"))
        self._gone.update(self._waiting, self._held)
        self._waiting.clear()
        self._held.clear()
        self._go_ahead()
        with suppress(SlotsUnavailable):
            await self._turn()

    def _leave(self, name: str, waiter: _Waiter) -> None:
        """A wait was cancelled, before or after it was served."""
        if self._waiting.pop(name, None) is not None:
            self._gone.add(name)
            self._wake.set()
        elif not waiter.given.cancelled() and waiter.given.exception() is None:
            waiter.given.result().release()

    def _jittered(self, seconds: float) -> float:
        return seconds * self._rng.uniform(0.8, 1.0)

    async def _talk(self) -> None:
        if not self._known or self._clock() - self._renewed >= self._times.lease / 3:
            await self._renew()
        if not await self._turn():
            await self._renew()
            await self._turn()
        self._away = False

    def _lose(self) -> None:
        """What the call did is not known: everything is told anew once Redis answers, and until then nobody waits for a start."""
        self._away = True
        self._known = False
        self._go_ahead()

    def _go_ahead(self) -> None:
        for restarts in self._restarts.values():
            while restarts:
                _grant(restarts.popleft())

    async def _renew(self) -> None:
        leases: dict[str, list[str]] = {}
        for name, slot in self._held.items():
            leases.setdefault(slot.region, []).append(name)
        anew = not self._known
        taken = await self._calls.renew(leases)
        self._renewed = self._clock()
        self._known = True
        excess = [count - self._regions[region].streams for region, count in taken.items()]
        self._over_quota = max(self._over_quota, *excess)
        if anew:
            self._reentered += sum(map(len, leases.values()))
            for waiter in self._waiting.values():
                waiter.entered = False

    async def _turn(self) -> bool:
        """Tell what changed and take what is given; False: Redis does not know this task."""
        gone = tuple(self._gone)
        new = {name: waiter for name, waiter in self._waiting.items() if not waiter.entered}
        for region, restarts in self._restarts.items():
            self._restarts[region] = deque(one for one in restarts if not one.done())
        wanted = {region: len(restarts) for region, restarts in self._restarts.items()}
        answer = await self._calls.turn(gone, {name: waiter.score for name, waiter in new.items()}, wanted)
        self._known = answer is not None
        if answer is None:
            return False
        self._gone.difference_update(gone)
        for waiter in new.values():
            waiter.entered = True
        self._use = answer.use
        for region, count in answer.restarted.items():
            for _ in range(min(count, len(self._restarts[region]))):
                _grant(self._restarts[region].popleft())
        self._take(answer.given)
        return True

    def _take(self, given: Iterable[tuple[str, str]]) -> None:
        for name, region in given:
            waiter = self._waiting.get(name)
            if waiter is not None and not waiter.given.done():
                del self._waiting[name]
                slot = self._held[name] = RedisSlot(self, name, region)
                waiter.given.set_result(slot)
            elif name not in self._held:
                self._gone.add(name)
                self._wake.set()


def _grant(started: asyncio.Future[None]) -> None:
    if not started.done():
        started.set_result(None)
