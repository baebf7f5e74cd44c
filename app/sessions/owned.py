"""The sessions that this task owns, each in a task of its own."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from app.protocol.close import CloseCode
from app.sessions.deps import SessionDeps
from app.sessions.errors import Busy
from app.sessions.herald import Herald
from app.sessions.orphans import Orphans
from app.sessions.session import Session
from app.telemetry.logs import bound, logger
from tenants.terms import SessionRef

RETRY_AFTER_SECONDS: Final = 2

_log = logger(__name__)


class Owned:
    """Iterating gives the sessions of that moment. ``closed``: no session is taken any more."""

    def __init__(self, deps: SessionDeps, herald: Herald, orphans: Orphans) -> None:
        self._deps, self._herald, self._orphans = deps, herald, orphans
        self._live: dict[str, Session] = {}
        self._entering = 0
        self._group: asyncio.TaskGroup | None = None
        self.closed = False

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._live.values()))

    def __len__(self) -> int:
        """Sessions owned."""
        return len(self._live)

    def find(self, ref: SessionRef) -> Session | None:
        """The session, if this task owns it."""
        session = self._live.get(ref.session_id)
        return session if session is not None and session.ref == ref else None

    def refs(self) -> list[SessionRef]:
        """Which they are."""
        return [session.ref for session in self._live.values()]

    def start(self, group: asyncio.TaskGroup) -> None:
        """``group`` owns the sessions' tasks from now on."""
        self._group = group

    def require_open(self) -> None:
        """Raises Busy while this task goes away."""
        if self.closed:
            raise Busy("draining", "this server goes away; try again to reach another", 1)

    def require_room(self) -> None:
        """Raises Busy while this task takes no new session. Those that are about to begin count as well."""
        self.require_open()
        if len(self._live) + self._entering >= self._deps.limits.max_sessions:
            raise Busy("full", "this server carries all the sessions it may; try again", RETRY_AFTER_SECONDS)

    @contextmanager
    def entering(self) -> Iterator[None]:
        """Hold a place for a session that is about to begin."""
        self._entering += 1
        try:
            yield
        finally:
            self._entering -= 1

    def begin(self, session: Session) -> None:
        """``session`` is this task's from now on.

        Raises:
            Busy: this task goes away.
        """
        if self._group is None:
            raise RuntimeError("the manager is not running")
        self.require_open()
        self._live[session.ref.session_id] = session
        self._orphans.drop(session.ref)
        self._group.create_task(self._own(session), context=contextvars.Context())

    async def _own(self, session: Session) -> None:
        # Runs in a context of its own: the session outlives the request that it was won by.
        with bound(clinicId=session.ref.clinic_id, sessionId=session.ref.session_id):
            try:
                await session.run()
            except Exception:  # noqa: BLE001 - a bug in one session ends that session, orderly, and no other
                _log.exception("session_crashed")
                session.close(CloseCode.INTERNAL, "internal", "an internal error; resume")
            finally:
                self._live.pop(session.ref.session_id, None)
                if not session.finished:
                    # Whoever has the session next tells how it goes on.
                    self._herald.forget(session.ref)
                    # Also one that another task has taken: that task may die before its record says so.
                    window = self._deps.limits.resume_window_seconds
                    self._orphans.watch(session.ref, window, epoch=session.epoch)
