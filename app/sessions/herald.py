"""Changes of sessions to the index and to the log, off everybody's path, and again when these were away."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import suppress
from typing import Final

from app.events.log import EventLog, LogUnavailable
from app.protocol.rest import SessionItem
from app.sessions.index import IndexUnavailable, SessionIndex
from app.sessions.log_tail import Fenced, LogTail
from app.telemetry.logs import logger
from tenants.clinic import ClinicId
from tenants.terms import SessionRef

WAITING_MAX: Final = 10_000
"""Sessions whose change waits; past that the oldest is forgotten, and the archive still knows it."""

RETRY_SECONDS: Final = 1.0
OWED_SECONDS: Final = 5.0
"""How long one session that is over may keep the others waiting for the archive."""

REPEAT_SECONDS: Final = 10.0
"""After this time, at most twice, a row is put once more: an index that failed over meanwhile may have lost what it acknowledged."""

_EVENTS: Final = frozenset({"created", "live", "detached", "completed", "failed"})

_log = logger(__name__)


class _Unpaid(Exception):
    """The log cannot be given now what it lacks of a session that is over."""


class Herald:
    """Keeps the newest row of each changed session until it is told. ``run`` and ``repeat`` are owned by the manager."""

    def __init__(self, index: SessionIndex, log: EventLog) -> None:
        self._index, self._log = index, log
        self._waiting: OrderedDict[str, SessionItem] = OrderedDict()
        self._owed: dict[str, LogTail] = {}
        self._young: dict[str, SessionItem] = {}
        self._old: dict[str, SessionItem] = {}
        self._wake = asyncio.Event()
        self._moved = asyncio.Condition()
        self._turn = asyncio.Lock()

    def tell(self, item: SessionItem) -> None:
        """``item`` changed."""
        self._waiting[item.session_id] = item
        self._waiting.move_to_end(item.session_id)
        if len(self._waiting) > WAITING_MAX:
            oldest, _ = self._waiting.popitem(last=False)
            self._owed.pop(oldest, None)
        self._wake.set()

    def owe(self, ref: SessionRef, tail: LogTail) -> None:
        """``ref`` is finished: the log gets the finals that it lacks before it is told of that, and need keep none of them."""
        tail.unburden()
        self._owed[ref.session_id] = tail

    def forget(self, ref: SessionRef) -> None:
        """Another task has ``ref``: what waits here is older than what that task tells."""
        for rows in (self._waiting, self._owed, self._young, self._old):
            rows.pop(ref.session_id, None)

    async def told(self, ref: SessionRef, seconds: float) -> None:
        """Return when nothing of ``ref`` waits any more, or after ``seconds``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(lambda: ref.session_id not in self._waiting)

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.flush()

    async def repeat(self) -> None:
        """Put each row once more, some time after it was told, until cancelled."""
        while True:
            await asyncio.sleep(REPEAT_SECONDS)
            while self._old:
                session_id, item = next(iter(self._old.items()))
                try:
                    # Another task may own by now what was only created here.
                    await self._index.put(item, replace=item.state != "created")
                except IndexUnavailable:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                if self._old.get(session_id) is item:
                    del self._old[session_id]
            self._old, self._young = self._young, {}

    async def flush(self) -> None:
        """Tell what waits; what cannot be told now stays, and is tried again by ``run``."""
        async with self._turn:
            unpaid = frozenset[str]()
            while waiting := next((w for w in self._waiting.items() if w[0] not in unpaid), None):
                session_id, item = waiting
                try:
                    await self._tell(item)
                except _Unpaid:
                    # The others need not wait for an archive that is away, nor for one session's that is damaged.
                    unpaid |= {session_id, *self._owed}
                    if session_id in self._waiting:
                        self._waiting.move_to_end(session_id)
                    continue
                except (IndexUnavailable, LogUnavailable):
                    break
                if self._waiting.get(session_id) is item:
                    del self._waiting[session_id]
                async with self._moved:
                    self._moved.notify_all()
            if self._waiting:
                _log.warning("index_unavailable", waiting=len(self._waiting), owed=len(unpaid))
                self._wake.set()
                await asyncio.sleep(RETRY_SECONDS)

    async def _tell(self, item: SessionItem) -> None:
        await self._index.put(item)
        self._old.pop(item.session_id, None)
        if len(self._young) < WAITING_MAX:
            self._young[item.session_id] = item
        await self._pay(item)
        if item.state in _EVENTS:
            ref = SessionRef(ClinicId(item.clinic_id), item.session_id)
            await self._log.append(ref, f"session.{item.state}", _fields(item))

    async def _pay(self, item: SessionItem) -> None:
        tail = self._owed.get(item.session_id)
        if tail is None:
            return
        try:
            async with asyncio.timeout(OWED_SECONDS):
                await tail.check()
                if not await tail.append():
                    raise _Unpaid
                await tail.archived(item.finals)
        except (LogUnavailable, TimeoutError):
            raise _Unpaid from None
        except Fenced:
            _log.info("session_fenced", sessionId=item.session_id)
        self._owed.pop(item.session_id, None)


def _fields(item: SessionItem) -> dict[str, object]:
    known = {"language": item.language, "title": item.title, "externalId": item.external_id}
    return {
        **{name: value for name, value in known.items() if value is not None},
        "samples": item.samples,
        "finals": item.finals,
    }
