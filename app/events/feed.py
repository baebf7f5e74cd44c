"""One clinic's events on this task: followed once, for all who observe the clinic here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from app.events.log import LogUnavailable
from app.events.model import Cursor, LivePartial, LogEvent
from app.events.outbox import Ending, Outbox
from app.events.settled import Settled
from app.events.source import EventSource
from app.events.tail import LogExpired, Tail
from app.events.wire import Item, Unreadable, notice_text, open_event, open_partial
from app.telemetry.logs import logger
from app.telemetry.metrics import Metrics
from tenants.clinic import ClinicId

PAGE: Final = 200
RETRY_SECONDS: Final = 0.5
PACE_SECONDS: Final = 0.02
PACE_STEPS: Final = 50

_DEGRADED: Final = notice_text(
    "events_degraded", "events are away; those of the log follow when they are back"
)
_RECOVERED: Final = notice_text("events_recovered", "events are back; what the log has was told")

_log = logger(__name__)


class Feed:
    """Follower of a clinic's channel. ``run`` is owned by the hub, and reads the log wherever the channel has a gap."""

    def __init__(
        self,
        clinic_id: ClinicId,
        source: EventSource,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self.ready = asyncio.Event()
        """Set while what is new is known: not before the first read, nor while the log is away."""
        self.outboxes: set[Outbox] = set()
        self.tail = Tail()
        self._clinic_id, self._source, self._metrics, self._clock = clinic_id, source, metrics, clock
        self._settled = Settled()
        self._joined = False
        self._wake = asyncio.Event()

    def joined(self) -> None:
        self._joined = True
        self.tail.interrupted()
        self._wake.set()

    def left(self) -> None:
        self._joined = False
        self._degrade()

    def heard(self, event: LogEvent | LivePartial) -> None:
        if isinstance(event, LivePartial):
            self._show(event)
        elif self.tail.heard(event):
            self._spread(event)
        elif self.tail.behind:
            self._wake.set()

    async def run(self) -> None:
        """Read what the channel did not tell, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._catch_up()
            except LogUnavailable as failure:
                _log.warning("events_unread", reason=str(failure))
                self._degrade()
                await asyncio.sleep(RETRY_SECONDS)
                self._wake.set()

    def item(self, event: LogEvent) -> Item | None:
        """``event`` opened; None, once said in the log of this process, where it says nothing to this version."""
        try:
            return open_event(event, self._clock())
        except Unreadable as failure:
            _log.warning("event_unreadable", reason=str(failure))
            return None

    async def page(self, cursor: Cursor) -> tuple[list[LogEvent], bool]:
        """What the log holds after ``cursor``, and whether there may be more.

        Raises:
            LogUnavailable: see there.
        """
        page = await self._source.after(self._clinic_id, cursor, PAGE)
        return page, len(page) == PAGE

    async def holds(self, cursor: Cursor) -> bool:
        """Whether the log still has all that came after ``cursor``; raises LogUnavailable."""
        return (await self._source.bounds(self._clinic_id)).holds(cursor)

    async def _catch_up(self) -> None:
        if not self._joined or not self.tail.behind:
            return
        if self.tail.begin(await self._source.bounds(self._clinic_id)):
            _log.warning("log_lost_its_end")
            for outbox in self.outboxes:
                outbox.set_back(self.tail.last)
        reading = True
        while reading and self._joined:
            await self._pace()
            reading = self._read(*await self.page(self.tail.last))
        if not reading:
            self._recover()

    async def _pace(self) -> None:
        # The log is read faster than an observer's line may carry it. Who stays behind for long is too slow.
        for _ in range(PACE_STEPS):
            if not any(outbox.crowded for outbox in self.outboxes):
                return
            await asyncio.sleep(PACE_SECONDS)

    def _read(self, page: Sequence[LogEvent], full: bool) -> bool:
        try:
            reading = self.tail.take(page, full=full)
        except LogExpired:
            _log.warning("log_expired")
            for outbox in self.outboxes:
                outbox.end(Ending.EXPIRED)
            reading = self.tail.take(page, full=full)
        for event in page:
            self._spread(event)
        return reading

    def _show(self, event: LivePartial) -> None:
        try:
            partial = open_partial(event)
        except Unreadable as failure:
            _log.warning("event_unreadable", reason=str(failure))
            return
        if self._settled.admits(partial):
            for outbox in self.outboxes:
                if not outbox.offer_partial(partial):
                    self._metrics.events_dropped.inc()

    def _spread(self, event: LogEvent) -> None:
        item = self.item(event)
        if item is None:
            return
        self._settled.note(item)
        for outbox in self.outboxes:
            if not outbox.offer(item):
                self._metrics.events_dropped.inc()

    def _degrade(self) -> None:
        if self.ready.is_set():
            self.ready.clear()
            for outbox in self.outboxes:
                outbox.tell(_DEGRADED)

    def _recover(self) -> None:
        if not self.ready.is_set():
            self.ready.set()
            for outbox in self.outboxes:
                outbox.tell(_RECOVERED)
