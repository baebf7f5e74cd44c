"""Giving sessions back before this task goes away: one after the other, so that the others take them one after the other."""

from __future__ import annotations

import asyncio
from typing import Final

from app.protocol.messages import Draining
from app.sessions.deps import SessionDeps
from app.sessions.ending import Ending
from app.sessions.hold import GivenUp
from app.sessions.owned import Owned
from app.sessions.session import Session
from app.telemetry.logs import logger

RELEASE_SECONDS: Final = 30.0
"""What an engine or an archive that hangs may hold up one session."""

RECONNECT_MS_MAX: Final = 250
PAUSE_SECONDS_MAX: Final = 0.5
"""Between two sessions: a few of them need not take as long as many."""

_log = logger(__name__)


class Drain:
    """Ends ``RELEASE_SECONDS`` after ``drain_seconds`` at the latest."""

    def __init__(self, deps: SessionDeps, owned: Owned) -> None:
        self._deps, self._owned = deps, owned
        self._hurry = asyncio.Event()

    async def run(self) -> None:
        """Release every session; returns when all have ended. May be called again, and at the same time.

        Those without a speaker go first. What could not be made durable in time is still with its client.
        """
        sessions = sorted(self._owned, key=_has_speaker)
        pause = min(
            PAUSE_SECONDS_MAX, self._deps.limits.drain_seconds / max(1, sum(map(_has_speaker, sessions)))
        )
        async with asyncio.TaskGroup() as group:
            for waiting, session in enumerate(sessions):
                if waiting and _has_speaker(session):
                    await self._pause(pause)
                group.create_task(self._release(session))

    def hurry(self) -> None:
        """Release what is left at once."""
        self._hurry.set()

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._hurry.wait()
        except TimeoutError:
            return

    async def _release(self, session: Session) -> None:
        if session.speaker.link is not None:
            # Sessions that hang are given up together.
            session.speaker.link.draining(Draining(self._deps.rng.randint(0, RECONNECT_MS_MAX)))
        session.end(Ending.RELEASED)
        try:
            async with asyncio.timeout(RELEASE_SECONDS):
                await session.ended.wait()
        except TimeoutError:
            _log.error("release_incomplete", sessionId=session.ref.session_id)
            session.hold.lose(GivenUp())


def _has_speaker(session: Session) -> bool:
    return session.speaker.link is not None and session.ending is None
