"""A source of events in memory, which a test cuts, trims and slows as it likes."""

from __future__ import annotations

import asyncio

from app.events.log import LogUnavailable
from app.events.model import START, Bounds, Cursor, LivePartial, LogEvent
from app.events.source import Follower
from tenants.clinic import ClinicId


class MemorySource:
    """One clinic's log, whoever asks. ``away``: reads fail. ``gate``: while it is clear, reads wait."""

    def __init__(self) -> None:
        self.log: list[LogEvent] = []
        self.followers: dict[ClinicId, Follower] = {}
        self.away = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.reads = 0

    def follow(self, clinic_id: ClinicId, follower: Follower) -> None:
        self.followers[clinic_id] = follower
        follower.joined()

    def unfollow(self, clinic_id: ClinicId) -> None:
        del self.followers[clinic_id]

    async def bounds(self, clinic_id: ClinicId) -> Bounds:
        await self._read()
        return Bounds(self.log[0].prev, self.log[0].cursor, self.log[-1].cursor) if self.log else Bounds()

    async def after(self, clinic_id: ClinicId, cursor: Cursor, limit: int) -> list[LogEvent]:
        await self._read()
        return [event for event in self.log if event.cursor > cursor][:limit]

    def emit(self, *events: LogEvent, heard: bool = True) -> None:
        self.log += events
        for event in events if heard else ():
            self.publish(event)

    def publish(self, event: LogEvent | LivePartial) -> None:
        for follower in list(self.followers.values()):
            follower.heard(event)

    @property
    def end(self) -> int:
        return (self.log[-1].cursor if self.log else START).ms

    async def _read(self) -> None:
        self.reads += 1
        await asyncio.sleep(0)
        await self.gate.wait()
        if self.away:
            raise LogUnavailable("away")
