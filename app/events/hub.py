"""All who observe on this task: one feed for each clinic that somebody observes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from app.events.feed import Feed
from app.events.log import LogUnavailable
from app.events.model import Cursor
from app.events.observer import Observer
from app.events.outbox import Ending
from app.events.source import EventSource
from app.telemetry.metrics import Metrics
from tenants.clinic import ClinicId

READY_SECONDS: Final = 2.0
"""How long a new observer waits for the first of its clinic's feed."""

DRAIN_SECONDS: Final = 2.0


@dataclass
class _Used:
    feed: Feed
    task: asyncio.Task[None]
    users: int = 0


@dataclass(frozen=True)
class HubLimits:
    """How many may observe on one task at once: altogether, and of one clinic. Those about to begin count as well."""

    observers: int = 2_000
    of_clinic: int = 500


class HubDraining(Exception):
    """This task goes away and takes no new observer."""


class HubFull(Exception):
    """This task has all the observers that it may have; another may have room."""


class ClinicFull(Exception):
    """The clinic has all the observers that it may have on one task."""


class Hub:
    """One per process. Observers are taken while ``run`` runs; who drains a task ends them with ``drain``."""

    def __init__(
        self,
        source: EventSource,
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
        *,
        limits: HubLimits | None = None,
    ) -> None:
        self._source, self._metrics, self._clock = source, metrics, clock
        self._limits = limits or HubLimits()
        self._feeds: dict[ClinicId, _Used] = {}
        self._group: asyncio.TaskGroup | None = None
        self._draining = False
        self._empty = asyncio.Event()
        self._empty.set()

    async def run(self) -> None:
        """Own the feeds until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            await asyncio.Event().wait()

    @asynccontextmanager
    async def observing(
        self, clinic_id: ClinicId, session_id: str | None, after: Cursor | None
    ) -> AsyncIterator[Observer]:
        """A place for an observer, given back at the end of the block.

        Raises:
            HubDraining, HubFull, ClinicFull: see there.
            LogUnavailable: the clinic's events cannot be had now.
        """
        used = self._take(clinic_id)
        try:
            observer = await self._enter(used.feed, session_id, after)
            try:
                yield observer
            finally:
                self._leave(used.feed, observer)
        finally:
            self._give_up(clinic_id, used)

    async def drain(self) -> None:
        """Send every observer away after what waits for it, and take none any more; returns when they are gone, or after 2 s."""
        self._draining = True
        for used in self._feeds.values():
            for outbox in used.feed.outboxes:
                outbox.end(Ending.RESTARTING)
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._empty.wait()
        except TimeoutError:
            return

    async def _enter(self, feed: Feed, session_id: str | None, after: Cursor | None) -> Observer:
        try:
            async with asyncio.timeout(READY_SECONDS):
                await feed.ready.wait()
        except TimeoutError:
            raise LogUnavailable("events are away") from None
        held = after is None or await feed.holds(after)
        self._require_open()
        observer = Observer(feed, session_id, after, held=held)
        feed.outboxes.add(observer.outbox)
        self._metrics.observers.inc()
        self._empty.clear()
        return observer

    def _leave(self, feed: Feed, observer: Observer) -> None:
        feed.outboxes.discard(observer.outbox)
        self._metrics.observers.dec()
        if not any(used.feed.outboxes for used in self._feeds.values()):
            self._empty.set()

    def _take(self, clinic_id: ClinicId) -> _Used:
        self._require_open()
        used = self._feeds.get(clinic_id)
        self._require_room(used)
        if used is None:
            if self._group is None:
                raise LogUnavailable("events are not followed")
            feed = Feed(clinic_id, self._source, self._metrics, self._clock)
            used = self._feeds[clinic_id] = _Used(feed, self._group.create_task(feed.run()))
            self._source.follow(clinic_id, feed)
        used.users += 1
        return used

    def _give_up(self, clinic_id: ClinicId, used: _Used) -> None:
        used.users -= 1
        if used.users == 0:
            del self._feeds[clinic_id]
            self._source.unfollow(clinic_id)
            used.task.cancel()

    def _require_room(self, used: _Used | None) -> None:
        if used is not None and used.users >= self._limits.of_clinic:
            raise ClinicFull
        if sum(used.users for used in self._feeds.values()) >= self._limits.observers:
            raise HubFull

    def _require_open(self) -> None:
        if self._draining:
            raise HubDraining
