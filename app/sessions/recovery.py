"""After a start: what the archive says is put where it is quick to find, and what has no owner is watched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from app.archive.finisher import is_cleaned_up
from app.archive.history import History
from app.archive.reader import load_history
from app.archive.records import RecordCorrupt
from app.archive.store import ObjectCorrupt, ObjectMissing, StoreUnavailable
from app.sessions.deps import SessionDeps
from app.sessions.index import IndexUnavailable
from app.sessions.manager import SessionManager
from app.sessions.state import SessionState
from app.sessions.views import archived_item, archived_state
from app.telemetry.logs import logger
from tenants.clinic import parse_clinic_id
from tenants.terms import SessionRef

CHECK_SECONDS = 1.0
PROBE_BYTES = 4096
"""Enough for a disk without room to refuse it."""

_log = logger(__name__)


class Recovery:
    """Reads the archive through after a start, and again when the index was emptied. ``run`` is owned by the manager.

    ``done`` is set while the index may be trusted: also while the archive is still read for the sake of those sessions that
    have no owner. What did not answer is asked again here, for ``deps.health``.
    """

    def __init__(self, deps: SessionDeps, manager: SessionManager) -> None:
        self._deps, self._manager = deps, manager
        self._read_through = False
        self._rebuilds = 0
        self._told: str | None = None
        self.done = asyncio.Event()

    async def run(self) -> None:
        """Rebuild whenever there is need, trying again while the store or the index is away."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rebuilding())
            group.create_task(self._probing())

    async def _rebuilding(self) -> None:
        while True:
            try:
                complete = await self._deps.index.completed_by()
                if complete is not None:
                    self.done.set()
                else:
                    self.done.clear()
                if complete is None or not self._read_through:
                    await self._rebuild(told=complete is not None)
                elif complete != self._told:
                    await self._tell_owned()
                    self._told = complete
            except IndexUnavailable:
                self._deps.health.index_answers = False
            except StoreUnavailable as refusal:
                self._deps.health.archive_answers = False
                _log.warning("archive_away", reason=refusal.reason)
            await asyncio.sleep(CHECK_SECONDS)

    async def _probing(self) -> None:
        while True:
            try:
                await self._deps.index.completed_by()
                self._deps.health.index_answers = True
                await self._probe()
            except IndexUnavailable:
                self._deps.health.index_answers = False
            except StoreUnavailable as refusal:
                self._deps.health.archive_answers = False
                _log.warning("archive_away", reason=refusal.reason)
            await asyncio.sleep(CHECK_SECONDS)

    async def _probe(self) -> None:
        if not self._deps.health.archive_answers:
            key = f"_health/{self._deps.task.replace(':', '-')}/probe"
            await self._deps.store.delete(key)
            await self._deps.store.create(key, bytes(PROBE_BYTES))
            await self._deps.store.delete(key)
            self._deps.health.archive_answers = True

    async def _rebuild(self, *, told: bool) -> None:
        sessions = unfinished = 0
        async for ref in self._refs():
            owned = self._manager.owned(ref)
            if owned is not None:
                await self._deps.index.put(owned.item())
                continue
            try:
                history = await load_history(self._deps.store, ref)
            except (RecordCorrupt, ObjectCorrupt, ObjectMissing) as damage:
                _log.error("session_damaged", sessionId=ref.session_id, key=damage.key)
                continue
            if history is not None:
                sessions += 1
                unfinished += self._watch(ref, history)
                # Rows that are there may be newer than the archive: another task may own the session.
                if not told:
                    await self._deps.index.put(archived_item(history))
        self._read_through = True
        if not told:
            self._rebuilds += 1
            await self._deps.index.mark_complete(f"{self._deps.boot}.{self._rebuilds}")
            self.done.set()
        _log.info("archive_read", sessions=sessions, unfinished=unfinished)

    async def _tell_owned(self) -> None:
        # Another task has read the archive, which does not tell who speaks.
        for session in self._manager.sessions:
            await self._deps.index.put(session.item())

    async def _refs(self) -> AsyncIterator[SessionRef]:
        async for clinic in self._deps.store.list("", delimiter="/"):
            clinic_id = parse_clinic_id(clinic.key.rstrip("/"))
            if clinic_id is None:
                continue
            async for session in self._deps.store.list(clinic.key, delimiter="/"):
                yield SessionRef(clinic_id, session.key[len(clinic.key) :].rstrip("/"))

    def _watch(self, ref: SessionRef, history: History) -> bool:
        if history.finished and not is_cleaned_up(history):
            self._manager.orphans.note(ref, self._deps.clock())
        if history.finished or self._manager.owned(ref) is not None:
            return False
        limits = self._deps.limits
        created = archived_state(history) is SessionState.CREATED
        self._manager.orphans.watch_new(
            ref, limits.created_seconds if created else limits.resume_window_seconds, history=history
        )
        return True
