"""What a process says to Redis about its stream slots: two calls, and how they are written and read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from app.adapters import redis_slot_scripts as scripts
from app.adapters.redis_client import Client, RedisScript, time_limit
from audio.slots import RegionLimits

_RENEW: Final = RedisScript(scripts.RENEW)
_TURN: Final = RedisScript(scripts.TURN)


class RedisSlotTimes(msgspec.Struct, frozen=True):
    """Seconds.

    Attributes:
        lease: so long after its last renewal a dead task's slot is free; renewed every third of it.
        beat: how often a task is heard of at least, and how soon it looks for a Redis that is away.
        alive: so long after it was last heard of a task's waiters leave the queue.
        settle: how long nothing new is given when no task was alive in Redis before (it was emptied, or away for long):
            those that come back enter their leases in it. More than two beats and a call.
        poll: how often a task with waiters takes its turn.
        call: how long one call may take.
        window: a second of the start rate, and a margin for what lies between being allowed to start and starting.
    """

    lease: float = 30.0
    beat: float = 1.0
    alive: float = 4.0
    settle: float = 3.5
    poll: float = 0.1
    call: float = 1.0
    window: float = 1.1


class RegionUse(msgspec.Struct, frozen=True):
    """A region as Redis last told, for all tasks.

    ``taken``: slots; ``free``: how many more sessions it would take at once; ``waiting``: who waits for it, perhaps for others too.
    """

    taken: int = 0
    free: int = 0
    waiting: int = 0


class SlotStats(msgspec.Struct, frozen=True):
    """For metrics.

    Attributes:
        held, waiting: slots and waiters of this task.
        away: whether Redis did not answer the last call.
        reentered: leases entered in a Redis that did not know this task (any more), since the start.
        over_quota: the most that a renewal found taken above a region's quota, since the start.
        regions: by name.
    """

    held: int
    waiting: int
    away: bool
    reentered: int
    over_quota: int
    regions: Mapping[str, RegionUse]


class SlotsUnavailable(Exception):
    """Redis did not answer; with the kind of the failure. What was asked may have been done."""


class Turn(msgspec.Struct, frozen=True):
    """What a turn brought: leases with their regions, and by region how many restarts were granted and how it is used."""

    given: list[tuple[str, str]]
    restarted: dict[str, int]
    use: dict[str, RegionUse]


class SlotCalls:
    """The calls of one holder."""

    def __init__(
        self, client: Client, regions: Mapping[str, RegionLimits], holder: str, times: RedisSlotTimes
    ) -> None:
        """ValueError: a name that the names in Redis cannot be made of."""
        if not re.fullmatch(r"[A-Za-z0-9._@-]{1,128}", holder):
            raise ValueError("a holder's name is made of letters, digits and ._@-")
        if not regions or not all(re.fullmatch(r"[a-z0-9-]{1,64}", name) for name in regions):
            raise ValueError("there are regions, and their names are made of small letters, digits and -")
        self._regions: Final = dict(regions)
        self._names: Final = tuple(regions)
        self._holder: Final = holder
        self._call_seconds: Final = times.call
        self._client: Final = client
        self._lives: Final[list[str | int | float]] = [holder, _ms(times.alive), _ms(times.lease)]
        self._settle: Final = _ms(times.settle)
        self._window: Final = _ms(times.window)
        self._renew_keys: Final = [
            scripts.SETTLING_KEY,
            scripts.HOLDERS_KEY,
            *map(scripts.slots_key, regions),
        ]
        self._turn_keys: Final = [scripts.SETTLING_KEY, scripts.HOLDERS_KEY]
        for name in regions:
            self._turn_keys.extend(
                [scripts.queue_key(name), scripts.slots_key(name), scripts.starts_key(name)]
            )

    def name(self, number: int, regions: Sequence[str]) -> str:
        """What this holder's waiter, and then its lease, is called."""
        return f"{self._holder}:{number:012d}:{','.join(regions)}"

    async def renew(self, leases: Mapping[str, Sequence[str]]) -> dict[str, int]:
        """Enter all leases, by region, and the holder; gives how many are taken, by region.

        Raises:
            SlotsUnavailable: see there.
        """
        arguments: list[str | int | float] = [*self._lives, self._settle]
        for region in self._names:
            named = leases.get(region, ())
            arguments += [len(named), *named]
        async with time_limit(self._call_seconds, SlotsUnavailable):
            taken: list[int] = await _RENEW(self._client, self._renew_keys, arguments)
        return dict(zip(self._names, taken, strict=True))

    async def turn(
        self, gone: Sequence[str], new: Mapping[str, float], restarts: Mapping[str, int]
    ) -> Turn | None:
        """Tell what is gone, who waits since the last turn (with scores) and how many restarts are wanted; None: ``renew`` first.

        Raises:
            SlotsUnavailable: see there.
        """
        arguments: list[str | int | float] = [*self._lives, self._window, len(self._names)]
        for name, limits in self._regions.items():
            arguments += [name, limits.streams, limits.starts, restarts.get(name, 0)]
        arguments += [len(gone), *gone]
        for waiter, score in new.items():
            arguments += [score, waiter]
        async with time_limit(self._call_seconds, SlotsUnavailable):
            answer = await _TURN(self._client, self._turn_keys, arguments)
        if answer is None:
            return None
        given, *regions = answer
        leases = zip(given[::2], given[1::2], strict=True)
        counts = dict(zip(self._names, regions, strict=True))
        return Turn(
            given=[(lease.decode(), self._names[place]) for lease, place in leases],
            restarted={name: count[3] for name, count in counts.items()},
            use={name: RegionUse(*count[:3]) for name, count in counts.items()},
        )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
