"""Whether this task still owns its sessions, asked over and over: an owner that nobody confirms must let go in time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from app.archive.parallel import bounded_map
from app.archive.store import StoreUnavailable
from app.events.log import LogUnavailable
from app.sessions.deps import SessionDeps
from app.sessions.ending import Ending
from app.sessions.errors import Superseded
from app.sessions.hold import Unconfirmed
from app.sessions.log_tail import Fenced
from app.sessions.ownership import confirm
from app.sessions.roll import Roll, Standing, beat_seconds
from app.sessions.session import Session
from app.telemetry.logs import logger

PARALLEL_CONFIRMS: Final = 8
ROUND_SECONDS_MIN: Final = 2.0
"""An archive that is only slow is given so much time to answer in one round, however short the window."""

_log = logger(__name__)


class Vigil:
    """``run`` is owned by the manager. ``sessions`` gives those that this task owns now."""

    def __init__(self, deps: SessionDeps, roll: Roll, sessions: Callable[[], Iterable[Session]]) -> None:
        self._deps, self._roll, self._sessions = deps, roll, sessions
        self._every = beat_seconds(deps.limits.resume_window_seconds)
        self._hurry = asyncio.Event()

    def tick(self, now: float) -> None:
        """Called a few times a second. After a break everything is confirmed at once; until then nothing is promised."""
        if self._deps.pulse.tick(now):
            _log.warning("stood_still")
            self._hurry.set()

    async def run(self) -> None:
        """Confirm until cancelled."""
        while True:
            await self.confirm()
            try:
                async with asyncio.timeout(self._every):
                    await self._hurry.wait()
            except TimeoutError:
                continue
            self._hurry.clear()

    async def confirm(self) -> None:
        """Confirm every session once; those that have been lost, or unconfirmed for too long, are let go."""
        asked = self._deps.clock()
        # Who finishes a session finds out by itself.
        sessions = [s for s in self._sessions() if s.ending in {None, Ending.RELEASED}]
        doubtful = await self._ask_board(sessions, asked)
        # Those whom a slow archive did not get to in the round before come first in this one.
        doubtful.sort(key=lambda session: session.hold.confirmed_at)
        try:
            async with asyncio.timeout(max(self._every, ROUND_SECONDS_MIN)):
                await bounded_map(lambda s: self._ask_archive(s, asked), doubtful, limit=PARALLEL_CONFIRMS)
        except TimeoutError:
            _log.warning("ownership_doubtful", sessions=len(doubtful))
        for session in sessions:
            if not session.hold.lasts:
                session.hold.lose(Unconfirmed())

    async def _ask_board(self, sessions: list[Session], asked: float) -> list[Session]:
        if not sessions:
            return []
        try:
            epochs = await self._deps.board.epochs([session.ref for session in sessions])
        except LogUnavailable:
            return sessions
        doubtful: list[Session] = []
        for session, epoch in zip(sessions, epochs, strict=True):
            if epoch is None or epoch < session.epoch:
                session.parts.committer.log_forgot()
            # An owner that the log does not answer cannot tell it of its epoch; but then its task's record does.
            if epoch == session.epoch and self._roll.standing(session.ref) is not Standing.ALIVE:
                _confirm(session, asked)
            else:
                doubtful.append(session)
        return doubtful

    async def _ask_archive(self, session: Session, asked: float) -> None:
        try:
            await confirm(self._deps.store, session.ref, session.epoch)
        except Superseded:
            session.hold.lose(Fenced())
        except StoreUnavailable:
            return
        else:
            _confirm(session, asked)


def _confirm(session: Session, asked: float) -> None:
    was_sure = session.hold.is_sure
    session.hold.confirm(asked)
    if not was_sure and session.speaker.link is not None:
        # What became durable meanwhile was kept from it.
        session.speaker.link.ack()
