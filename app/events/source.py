"""The port through which events come: each clinic's channel as they happen, and its log for what was missed."""

from __future__ import annotations

from typing import Protocol

from app.events.model import Bounds, Cursor, LivePartial, LogEvent
from tenants.clinic import ClinicId


class Follower(Protocol):
    """Who follows a channel. Calls come from the event loop, are synchronous and quick, and raise nothing."""

    def joined(self) -> None:
        """From now on what is published is heard. Said again after a break: something may have been missed before."""

    def left(self) -> None:
        """Nothing is heard until ``joined`` is said again."""

    def heard(self, event: LogEvent | LivePartial) -> None:
        """Something was published. An event of the log may come twice, late, or not at all: its log decides."""


class EventSource(Protocol):
    """Reads give up after the adapter's time limit (1 s) with ``app.events.log.LogUnavailable``."""

    def follow(self, clinic_id: ClinicId, follower: Follower) -> None:
        """Listen to a clinic's channel for ``follower``, the only one of that clinic; ``joined`` follows."""

    def unfollow(self, clinic_id: ClinicId) -> None:
        """Listen no longer; nothing more is said to the follower."""

    async def bounds(self, clinic_id: ClinicId) -> Bounds:
        """What the clinic's log holds now."""

    async def after(self, clinic_id: ClinicId, cursor: Cursor, limit: int) -> list[LogEvent]:
        """The first ``limit`` entries after ``cursor`` that are still there, in order."""
