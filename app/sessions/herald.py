"""Changes of sessions to the index and to the log, off everybody's path, and again when these were away."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from app.events.log import EventLog, LogUnavailable
from app.protocol.rest import SessionItem
from app.sessions.index import IndexUnavailable, SessionIndex
from app.telemetry.logs import logger
from tenants.clinic import ClinicId
from tenants.terms import SessionRef

WAITING_MAX: Final = 10_000
"""Sessions whose change waits; past that the oldest is forgotten, and the archive still knows it."""

RETRY_SECONDS: Final = 1.0

_EVENTS: Final = frozenset({"created", "live", "detached", "completed", "failed"})

_log = logger(__name__)


class Herald:
    """Keeps the newest row of each changed session until it is told. ``run`` is owned by the manager."""

    def __init__(self, index: SessionIndex, log: EventLog) -> None:
        self._index, self._log = index, log
        self._waiting: OrderedDict[str, SessionItem] = OrderedDict()
        self._wake = asyncio.Event()

    def tell(self, item: SessionItem) -> None:
        """``item`` changed."""
        self._waiting[item.session_id] = item
        self._waiting.move_to_end(item.session_id)
        if len(self._waiting) > WAITING_MAX:
            self._waiting.popitem(last=False)
        self._wake.set()

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()

    async def flush(self) -> None:
        """Tell what waits; what cannot be told now stays, and is tried again by ``run``."""
        while self._waiting:
            session_id, item = next(iter(self._waiting.items()))
            try:
                await self._tell(item)
            except (IndexUnavailable, LogUnavailable):
                _log.warning("index_unavailable", waiting=len(self._waiting))
                self._wake.set()
                await asyncio.sleep(RETRY_SECONDS)
                return
            if self._waiting.get(session_id) is item:
                del self._waiting[session_id]

    async def _tell(self, item: SessionItem) -> None:
        await self._index.put(item)
        if item.state in _EVENTS:
            ref = SessionRef(ClinicId(item.clinic_id), item.session_id)
            await self._log.append(
                ref, f"session.{item.state}", {"samples": item.samples, "finals": item.finals}
            )
