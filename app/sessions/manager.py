"""The sessions of this task: who may attach, what expires, how all of them end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from typing import Any, Final

from app.auth.tickets import Ticket, Tickets
from app.sessions.attaching import Attaching, Attachment
from app.sessions.beats import Beats
from app.sessions.deps import SessionDeps
from app.sessions.drain import Drain
from app.sessions.ending import Ending
from app.sessions.herald import Herald
from app.sessions.hold import GivenUp
from app.sessions.orphans import Orphans
from app.sessions.owned import Owned
from app.sessions.roll import Roll, Standing
from app.sessions.session import Session
from app.sessions.vigil import Vigil
from audio.pcm import SAMPLE_BYTES
from audio.ring import RING_SAMPLES
from tenants.terms import SessionRef

TICK_SECONDS: Final = 0.25
TELL_SECONDS: Final = 2.0
"""For what the list of sessions is still to be told at the end."""


class SessionManager:
    """Owns every session of this task; ``running`` owns their tasks."""

    def __init__(self, deps: SessionDeps, tickets: Tickets, herald: Herald) -> None:
        self._deps, self._herald = deps, herald
        self._roll = Roll(deps.limits.resume_window_seconds)
        self.orphans = Orphans(deps, herald, self._roll)
        self._owned = Owned(deps, herald, self.orphans)
        self._attaching = Attaching(deps, tickets, herald, owned=self._owned, orphans=self.orphans)
        self._beats = Beats(deps, self._roll, self.orphans, self._owned.refs)
        self._vigil = Vigil(deps, self._roll, lambda: self._owned)
        self._drain = Drain(deps, self._owned)
        self._given_up = False

    @asynccontextmanager
    async def running(self, *beside: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
        """Own the sessions' tasks, and those that run ``beside`` them until they are cancelled.

        On leaving, every session has been released or given up, and what is not finished left to other tasks.
        """
        try:
            async with asyncio.TaskGroup() as group:
                self._owned.start(group)
                herald = (self._herald.run, self._herald.repeat)
                own = (*herald, self._tick, self._vigil.run, self._beats.run, self.orphans.run)
                helpers = [group.create_task(helper()) for helper in (*own, *beside)]
                try:
                    yield
                finally:
                    await self.drain()
                    for helper in helpers:
                        helper.cancel()
        finally:
            if not self._given_up:
                await self._beats.last()

    def owned(self, ref: SessionRef) -> Session | None:
        """The session, if this task owns it."""
        return self._owned.find(ref)

    @property
    def sessions(self) -> Iterable[Session]:
        """All that this task owns."""
        return self._owned

    def is_elsewhere(self, ref: SessionRef) -> bool:
        """Whether another task owns ``ref``, and lives."""
        return self._roll.standing(ref) is Standing.ALIVE

    def require_room(self) -> None:
        """Raises Busy while this task takes no new session."""
        self._owned.require_room()

    async def attach(self, ticket: Ticket, after: int, wake: Callable[[], None]) -> Attachment:
        """Give the holder of a speaker's ticket its place; ``after`` is the last final it has.

        Raises:
            SessionNotFound, Superseded, AuthError, Busy, StoreError: refused, nothing changed.
        """
        return await self._attaching.attach(ticket, after, wake)

    def stop(self, ref: SessionRef) -> bool:
        """Stop a session that this task owns; False where it does not."""
        session = self.owned(ref)
        if session is not None:
            session.end(Ending.STOPPED)
        return session is not None

    @property
    def draining(self) -> bool:
        """Whether this task goes away."""
        return self._owned.closed

    def close(self) -> None:
        """Take no more sessions, from this moment on."""
        self._owned.closed = True

    async def drain(self) -> None:
        """Take no more sessions, make all of them durable, tell their speakers to resume elsewhere.

        Takes ``drain_seconds`` and what ``Drain`` adds to it at most. May be called again.
        """
        self.close()
        await self._drain.run()
        if not self._given_up:
            try:
                async with asyncio.timeout(TELL_SECONDS):
                    await self._herald.flush()
            except TimeoutError:
                return

    def give_up(self) -> None:
        """End what is left at once: what is not durable by now is still with its client."""
        self._given_up = True
        self._drain.hurry()
        for session in self._owned:
            session.hold.lose(GivenUp())

    async def _tick(self) -> None:
        metrics = self._deps.metrics
        while True:
            due = self._deps.clock() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            now = self._deps.clock()
            metrics.event_loop_lag_seconds.observe(max(0.0, now - due))
            self._vigil.tick(now)
            rings = 0
            for session in self._owned:
                rings += session.parts.ring.allocated
                session.tick(now)
            metrics.ring_bytes.set(rings * RING_SAMPLES * SAMPLE_BYTES)
