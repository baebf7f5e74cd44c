"""One engine out of several regions': a session gets a place in the first of its regions that has one and is well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Final

import msgspec

from audio.breaker import BreakerLimits, BreakerState, CircuitBreaker
from audio.engine import (
    Engine,
    EngineCapabilities,
    EngineError,
    EngineStream,
    Rejected,
    StreamRequest,
    Throttled,
    Unavailable,
)
from audio.engines.places import Place, Places
from audio.engines.regional_stream import RegionalStream
from audio.pcm import SAMPLE_RATE
from audio.slots import StreamSlots

CIRCUIT_OPEN: Final = "circuit_open"
SHORTEST_WAIT: Final = 0.5


class RegionalLimits(msgspec.Struct, frozen=True):
    """Seconds.

    Attributes:
        grace: how long a session whose stream died keeps its slot for the next one.
        mute: a stream that took so much audio since it last reported anything, and is closed by us without having been told
            the end, was a failure of the region and not our wish.
        breaker: of each region.
    """

    grace: float = 10.0
    mute: float = 5.0
    breaker: BreakerLimits = BreakerLimits()


class RegionalEngine:
    """An engine made of one per region.

    ``open`` takes the regions that the request allows, in this engine's order of preference, passes over those whose breaker
    is open, waits its turn for a slot in one of the rest, and opens the stream there. A region that fails or refuses is
    followed by the next: vocabularies and permissions are a region's own, so even a refusal says nothing of others.

    The slot is the session's (``StreamRequest.session``). It is given back when a stream that was told the end has reported
    everything and is closed; when a stream is closed otherwise it is kept for ``grace`` seconds, and a stream that
    the session opens within them, in the same region, waits for no place. Two streams of a session in one region (one takes
    over from the other) share its slot. A session that gets its next stream in another region gives the old slot back.
    """

    def __init__(
        self,
        regions: Mapping[str, Engine],
        slots: StreamSlots,
        *,
        clock: Callable[[], float],
        rng: Random,
        wall: Callable[[], float] = time.time,
        limits: RegionalLimits | None = None,
    ) -> None:
        """Owns the engines, not the slots.

        Args:
            regions: by name, in order of preference; at least one.
            slots: know all these regions.
            clock: monotonic seconds.
            rng: jitter of the breakers.
            wall: seconds since 1970; from when a request without ``since`` counts.
            limits: see there.
        """
        self._limits: Final = limits or RegionalLimits()
        self._regions: Final = dict(regions)
        self._slots: Final = slots
        self._clock: Final = clock
        self._wall: Final = wall
        self._breakers: Final = {name: CircuitBreaker(rng, self._limits.breaker) for name in regions}
        self._places: Final = Places(self._limits.grace)
        self._capabilities: Final = _capabilities([engine.capabilities for engine in regions.values()])
        self._waits: set[asyncio.Timeout] = set()
        self._closed = False

    @property
    def capabilities(self) -> EngineCapabilities:
        """Languages: those of any region, for a request goes only where its language is. Speaker labels: when all have them."""
        return self._capabilities

    def breakers(self) -> dict[str, BreakerState]:
        """Of each region, for metrics."""
        now = self._clock()
        return {name: breaker.state(now) for name, breaker in self._breakers.items()}

    def has_room(self) -> bool:
        usable = [name for name in self._well(self._regions) if self._regions[name].has_room()]
        return not self._closed and bool(usable) and self._slots.room_hint(usable)

    async def open(self, request: StreamRequest) -> EngineStream:
        """As the port says; waiting lasts, while at least one region is well, until there is a slot.

        Raises:
            Throttled: some region was too busy, and none did better; the soonest ``retry_after``.
            Unavailable: no region could be reached, their breakers are open, or the engine was closed.
            Rejected: every region refused, or none that is allowed has the language.
        """
        left = self._candidates(request)
        since = request.since or self._wall()
        errors: list[EngineError] = []
        while left:
            usable = self._well(left)
            if not usable:
                errors.append(
                    Unavailable(CIRCUIT_OPEN, "the regions failed too often and are left alone for a while")
                )
                break
            place = await self._place(request, usable, left, since)
            if place is None:
                continue
            left.remove(place.region)
            try:
                return await self._open(request, place)
            except EngineError as error:
                errors.append(error)
            self._check_open()
        raise _best(errors)

    async def close(self) -> None:
        self._closed = True
        now = asyncio.get_running_loop().time()
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(now)
        for engine in self._regions.values():
            await engine.close()
        self._places.clear()

    def _check_open(self) -> None:
        if self._closed:
            raise Unavailable("closed", "the engine was closed")

    def _well(self, regions: Sequence[str] | Mapping[str, Engine]) -> list[str]:
        now = self._clock()
        return [name for name in regions if self._breakers[name].may_begin(now)]

    def _candidates(self, request: StreamRequest) -> list[str]:
        self._check_open()
        allowed = [name for name in self._regions if not request.regions or name in request.regions]
        if not allowed:
            raise Rejected("region", "the engine has none of the regions that are allowed")
        languages = {name: self._regions[name].capabilities.languages for name in allowed}
        fitting = [name for name in allowed if not languages[name] or request.language in languages[name]]
        if not fitting:
            raise Rejected("language", "no region that is allowed has the language")
        return fitting

    async def _place(
        self, request: StreamRequest, usable: list[str], left: list[str], since: float
    ) -> Place | None:
        """A place in one of ``usable``; None when a region of ``left`` that was not well should be looked at again."""
        place = self._places.join(request.session, usable)
        if place is not None:
            return await self._restart(place)
        # The turn is kept by priority and age, so that leaving the queue and coming back costs nothing.
        others = [self._breakers[name].wait(self._clock()) for name in left if name not in usable]
        wait = asyncio.timeout(max(SHORTEST_WAIT, min(others)) if others else None)
        self._waits.add(wait)
        try:
            async with wait:
                slot = await self._slots.acquire(
                    usable, session=request.session, priority=request.priority, since=since
                )
        except TimeoutError:
            self._check_open()
            return None
        finally:
            self._waits.discard(wait)
        return self._places.enter(request.session, slot)

    async def _restart(self, place: Place) -> Place:
        try:
            await place.restart()
        except BaseException:
            self._places.leave(place, finished=False)
            raise
        return place

    async def _open(self, request: StreamRequest, place: Place) -> EngineStream:
        """A stream in a place that was joined; without success it is left."""
        attempt = self._breakers[place.region].begin(self._clock())
        try:
            if attempt is None:
                raise Unavailable(CIRCUIT_OPEN, "the region failed too often while its place was waited for")
            inner = await self._regions[place.region].open(request)
        except BaseException as error:
            if attempt is not None and isinstance(error, Throttled | Unavailable):
                attempt.failed(self._clock())
            elif attempt is not None:
                attempt.ended(self._clock())
            self._places.leave(place, finished=False)
            raise
        attempt.opened(self._clock())
        self._places.settle(place)
        return RegionalStream(
            inner,
            attempt=attempt,
            clock=self._clock,
            mute=int(self._limits.mute * SAMPLE_RATE),
            leave=lambda finished: self._places.leave(place, finished=finished),
        )


def _best(errors: list[EngineError]) -> EngineError:
    """The one that leaves most hope: a region that is busy, else one that is away, and a refusal only when all refused."""
    throttled = [error for error in errors if isinstance(error, Throttled)]
    if throttled:
        return min(throttled, key=lambda error: error.retry_after)
    return next((error for error in errors if isinstance(error, Unavailable)), errors[0])


def _capabilities(regions: Sequence[EngineCapabilities]) -> EngineCapabilities:
    languages = [one.languages for one in regions]
    return EngineCapabilities(
        name=regions[0].name,
        languages=frozenset().union(*languages) if all(languages) else frozenset(),
        transcribes=any(one.transcribes for one in regions),
        speaker_labels=all(one.speaker_labels for one in regions),
        vocabularies=all(one.vocabularies for one in regions),
        mute_seconds=min((one.mute_seconds for one in regions if one.mute_seconds), default=None),
        gather=min(one.gather for one in regions),
    )
