"""The sessions that this task owns: who may attach, what expires, how all of them end."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from app.archive.history import History
from app.archive.reader import load_history, read_finals
from app.auth.tickets import Ticket, Tickets
from app.protocol.close import CloseCode
from app.protocol.messages import Draining, Ready
from app.sessions.deps import SessionDeps
from app.sessions.epilogue import Epilogue, rewound
from app.sessions.errors import Busy, SessionNotFound
from app.sessions.herald import Herald
from app.sessions.keyed_lock import KeyedLock
from app.sessions.link import Closing, Link
from app.sessions.orphans import Orphans
from app.sessions.ownership import Claimant, claim, is_lost, judge_serial
from app.sessions.parts import assemble
from app.sessions.session import Ending, Session
from app.sessions.views import archived_state
from app.telemetry.logs import bound, logger
from audio.pcm import SAMPLE_BYTES
from audio.ring import RING_SAMPLES
from audio.transcript import CommittedFinal
from tenants.terms import SessionRef

TICK_SECONDS: Final = 0.25
DRAIN_SECONDS: Final = 60.0
RETRY_AFTER_SECONDS: Final = 2

_log = logger(__name__)


@dataclass(frozen=True)
class Attachment:
    """A speaker's place. ``session`` is None where the session is finished and only its end is told."""

    link: Link
    ready: Ready
    session: Session | None


class SessionManager:
    """Owns every session of this task; ``running`` owns their tasks."""

    def __init__(self, deps: SessionDeps, tickets: Tickets, herald: Herald) -> None:
        self._deps, self._tickets, self._herald = deps, tickets, herald
        self._live: dict[str, Session] = {}
        self._locks = KeyedLock()
        self._epilogue = Epilogue(deps)
        self._group: asyncio.TaskGroup | None = None
        self.orphans = Orphans(deps, herald)
        self._owners: set[asyncio.Task[None]] = set()
        self._drained_by = 0.0
        self.draining = False

    @asynccontextmanager
    async def running(self, *beside: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
        """Own the sessions' tasks, and those that run ``beside`` them until they are cancelled.

        On leaving, every session has been released or given up.
        """
        async with asyncio.TaskGroup() as group:
            self._group = group
            beside = (self._herald.run, self._tick, self.orphans.run, *beside)
            helpers = [group.create_task(helper()) for helper in beside]
            try:
                yield
            finally:
                await self.drain()
                self.give_up()
                for helper in helpers:
                    helper.cancel()

    def owned(self, ref: SessionRef) -> Session | None:
        """The session, if this task owns it."""
        session = self._live.get(ref.session_id)
        return session if session is not None and session.ref == ref else None

    def require_room(self) -> None:
        """Raises Busy while this task takes no new session."""
        self._require_open()
        if len(self._live) >= self._deps.limits.max_sessions:
            raise Busy("full", "this server carries all the sessions it may; try again", RETRY_AFTER_SECONDS)

    async def attach(self, ticket: Ticket, after: int, wake: Callable[[], None]) -> Attachment:
        """Give the holder of a speaker's ticket its place; ``after`` is the last final it has.

        Raises:
            SessionNotFound, Superseded, AuthError, Busy, StoreError: refused, nothing changed.
        """
        if ticket.session_id is None:
            raise SessionNotFound
        ref = SessionRef(ticket.clinic_id, ticket.session_id)
        async with self._locks.held(ref.session_id):
            session = await self._present(ref)
            if session is not None and (session.ending is not None or ticket.serial == session.serial):
                return await self._join(session, ticket, after, wake)
            history = await load_history(self._deps.store, ref)
            if history is None:
                raise SessionNotFound
            if history.finished and not self._epilogue.may_reopen(history):
                link = await self._epilogue.link(ref, history, ticket, after, wake)
                return Attachment(link, self._epilogue.ready(ref, history, self._resume_ticket(ticket)), None)
            if session is None:
                self.require_room()
            judge_serial(history.speaker_serial, ticket.serial, resume=ticket.resume)
            if session is not None:
                await self._yield(session)
            return await self._enter(await self._claim(ref, history, ticket), ticket, after, wake)

    def stop(self, ref: SessionRef) -> bool:
        """Stop a session that this task owns; False where it does not."""
        session = self.owned(ref)
        if session is not None:
            session.end(Ending.STOPPED)
        return session is not None

    async def drain(self) -> None:
        """Take no more sessions, make all of them durable, tell their speakers to resume elsewhere.

        Takes ``DRAIN_SECONDS`` at most, however often it is called.
        """
        if not self.draining:
            self.draining = True
            self._drained_by = self._deps.clock() + DRAIN_SECONDS
        sessions = list(self._live.values())
        for session in sessions:
            if session.speaker.link is not None:
                session.speaker.link.draining(Draining(0))
            session.end(Ending.RELEASED)
        try:
            async with asyncio.timeout(max(0.0, self._drained_by - self._deps.clock())):
                for session in sessions:
                    await session.ended.wait()
        except TimeoutError:
            _log.error("drain_incomplete", sessions=len(self._live))

    def give_up(self) -> None:
        """End what is left at once: what is not durable by now is still with its client."""
        self._drained_by = self._deps.clock()
        for task in self._owners:
            task.cancel()

    # Attaching --------------------------------------------------------------------------------------

    def _require_open(self) -> None:
        if self.draining:
            raise Busy("draining", "this server goes away; try again to reach another", RETRY_AFTER_SECONDS)

    async def _present(self, ref: SessionRef) -> Session | None:
        # This task's own session, unless it is on its way out, or another task took it and nothing has told this one.
        session = self.owned(ref)
        if session is None:
            return None
        if session.ending is None and await is_lost(self._deps.store, ref, session.epoch):
            session.end(Ending.RELEASED)
        if session.ending in {Ending.RELEASED, Ending.ABANDONED}:  # given up: it is reopened then
            await self._until_released(session)
        return self.owned(ref)

    async def _yield(self, session: Session) -> None:
        # A newer ticket: this task's own session gives way exactly as another task's would, so that there is one way.
        if session.speaker.link is not None:
            session.speaker.link.close(
                Closing(CloseCode.SUPERSEDED, "superseded", "a newer connection speaks in this session")
            )
            session.detach(session.speaker.link)
        session.end(Ending.RELEASED)
        await self._until_released(session)

    async def _until_released(self, session: Session) -> None:
        try:
            async with asyncio.timeout(self._deps.limits.release_seconds):
                await session.ended.wait()
        except TimeoutError:
            raise Busy("archive_away", "what was said before is not durable yet; try again", 5) from None

    async def _claim(self, ref: SessionRef, history: History, ticket: Ticket) -> Session:
        # Should anything fail from here on, the session has no owner: it is finished unless its speaker tries again.
        self.orphans.watch(ref, self._deps.limits.resume_window_seconds, epoch=history.newest_epoch)
        claimant = Claimant.speaker(ticket, self._deps.task, self._deps.now())
        won = await claim(self._deps.store, self._deps.log, ref, claimant)
        parts = await assemble(self._deps, ref, won)
        session = Session(
            self._deps,
            won,
            parts,
            ref=ref,
            serial=ticket.serial,
            state=archived_state(history),
            changed=self._on_changed,
        )
        if self._group is None:
            raise RuntimeError("the manager is not running")
        self._require_open()
        self._live[ref.session_id] = session
        self.orphans.drop(ref)
        owner = self._group.create_task(self._own(session), context=contextvars.Context())
        self._owners.add(owner)
        owner.add_done_callback(self._owners.discard)
        return session

    async def _join(
        self, session: Session, ticket: Ticket, after: int, wake: Callable[[], None]
    ) -> Attachment:
        judge_serial(session.serial, ticket.serial, resume=ticket.resume)
        session.serial = ticket.serial
        return await self._admit(session, ticket, after, wake)

    async def _enter(
        self, session: Session, ticket: Ticket, after: int, wake: Callable[[], None]
    ) -> Attachment:
        try:
            return await self._admit(session, ticket, after, wake)
        except BaseException:
            # Even when whoever asked is gone: without a speaker it is not this task's to keep.
            session.end(Ending.RELEASED)
            raise

    async def _admit(
        self, session: Session, ticket: Ticket, after: int, wake: Callable[[], None]
    ) -> Attachment:
        back = session.parts.book.rewind(after)
        missed = await self._missed(session, back)
        if session.ended.is_set() and not session.finished:
            raise Busy("moving", "the session is changing hands; try again", 1)
        cursor = missed[-1].seq if missed else back
        link = Link(serial=ticket.serial, missed=missed, cursor=cursor, now=self._deps.clock(), wake=wake)
        if back < after:
            link.notice(rewound(back))
        ready = session.attach(link, self._resume_ticket(ticket))
        session.tell_end(link)
        return Attachment(link, ready, session)

    async def _missed(self, session: Session, after: int) -> list[CommittedFinal]:
        recent = session.parts.book.since(after)
        if recent is not None:
            return recent
        history = await load_history(self._deps.store, session.ref)
        older = (
            await read_finals(self._deps.store, session.ref, history, after) if history is not None else []
        )
        # What is archived and not yet committed is told when it is.
        older = [final for final in older if final.seq <= session.parts.book.committed]
        newest = older[-1].seq if older else after
        return older + (session.parts.book.since(newest) or [])

    def _resume_ticket(self, ticket: Ticket) -> str:
        issued = self._tickets.issue(
            clinic_id=ticket.clinic_id,
            session_id=ticket.session_id,
            subject=ticket.subject,
            role="speaker",
            serial=ticket.serial,
            resume=True,
        )
        return issued.token

    # Life -------------------------------------------------------------------------------------------

    async def _own(self, session: Session) -> None:
        # Runs in a context of its own: the session outlives the request that it was won by.
        with bound(clinicId=session.ref.clinic_id, sessionId=session.ref.session_id):
            try:
                await session.run()
            except Exception:  # noqa: BLE001 - a bug in one session ends that session, orderly, and no other
                _log.exception("session_crashed")
                if session.speaker.link is not None:
                    session.speaker.link.close(
                        Closing(CloseCode.INTERNAL, "internal", "an internal error; resume")
                    )
            finally:
                self._live.pop(session.ref.session_id, None)
                if not (session.finished or session.fenced or self.draining):
                    window = self._deps.limits.resume_window_seconds
                    self.orphans.watch(session.ref, window, epoch=session.epoch)

    async def _tick(self) -> None:
        metrics = self._deps.metrics
        while True:
            due = self._deps.clock() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            now = self._deps.clock()
            metrics.event_loop_lag_seconds.observe(max(0.0, now - due))
            rings = 0
            for session in self._live.values():
                rings += session.parts.ring.allocated
                session.tick(now)
            metrics.ring_bytes.set(rings * RING_SAMPLES * SAMPLE_BYTES)

    def _on_changed(self, session: Session) -> None:
        self._herald.tell(session.item())
