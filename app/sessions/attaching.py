"""How a speaker gets its place in a session: at this task already, to be taken from another, or at its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from app.archive.history import History
from app.archive.reader import load_history, read_finals
from app.auth.tickets import Ticket, Tickets
from app.protocol.close import CloseCode
from app.protocol.messages import Ready
from app.sessions.deps import SessionDeps
from app.sessions.ending import Ending
from app.sessions.epilogue import Epilogue, rewound
from app.sessions.errors import Busy, SessionNotFound
from app.sessions.herald import Herald
from app.sessions.keyed_lock import KeyedLock
from app.sessions.link import Link
from app.sessions.orphans import Orphans
from app.sessions.owned import Owned
from app.sessions.ownership import Claimant, claim, is_lost, judge_serial
from app.sessions.parts import assemble
from app.sessions.session import Session
from app.sessions.views import archived_state
from audio.transcript import CommittedFinal
from tenants.terms import SessionRef

TAKEN_AT_ONCE: Final = 12
"""Sessions taken over at the same time, first come, first served: when a task dies, its speakers come all at once, and they
are back the sooner if the first are served whole than if all wait for the last."""


@dataclass(frozen=True)
class Attachment:
    """A speaker's place. ``session`` is None where the session is finished and only its end is told."""

    link: Link
    ready: Ready
    session: Session | None


class Attaching:
    """Lets speakers in; one after the other for each session."""

    def __init__(
        self, deps: SessionDeps, tickets: Tickets, herald: Herald, *, owned: Owned, orphans: Orphans
    ) -> None:
        self._deps, self._tickets, self._herald = deps, tickets, herald
        self._owned, self._orphans = owned, orphans
        self._locks = KeyedLock()
        self._turns = asyncio.Semaphore(TAKEN_AT_ONCE)
        self._epilogue = Epilogue(deps)

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
            if session is None:
                return await self._take(ref, ticket, after, wake)
            judge_serial(session.serial, ticket.serial, resume=ticket.resume)
            with self._owned.entering():
                await self._yield(session)
                return await self._take(ref, ticket, after, wake, has_room=True)

    async def _take(
        self,
        ref: SessionRef,
        ticket: Ticket,
        after: int,
        wake: Callable[[], None],
        *,
        has_room: bool = False,
    ) -> Attachment:
        async with self._turns:
            history = await load_history(self._deps.store, ref, ends=False)
            if history is None:
                raise SessionNotFound
            if history.finished and not self._epilogue.may_reopen(history):
                link = await self._epilogue.link(ref, history, ticket, after, wake)
                return Attachment(link, self._epilogue.ready(ref, history, self._resume_ticket(ticket)), None)
            if not has_room:
                self._owned.require_room()
            judge_serial(history.speaker_serial, ticket.serial, resume=ticket.resume)
            with self._owned.entering():
                won = await self._claim(ref, history, ticket, after)
        return await self._enter(won, ticket, after, wake)

    async def _present(self, ref: SessionRef) -> Session | None:
        # This task's own session, unless it is on its way out, or another task took it and nothing has told this one.
        session = self._owned.find(ref)
        if session is None:
            return None
        if self._owned.closed:
            # The next task that the speaker comes to need not wait for its turn.
            session.end(Ending.RELEASED)
        elif session.ending is None and await is_lost(self._deps.store, ref, session.epoch):
            session.end(Ending.RELEASED)
        if session.ending in {Ending.RELEASED, Ending.ABANDONED}:  # given up: it is reopened then
            self._owned.require_open()
            await self._until_released(session)
        return self._owned.find(ref)

    async def _yield(self, session: Session) -> None:
        # A newer ticket: this task's own session gives way exactly as another task's would, so that there is one way.
        if session.speaker.link is not None:
            session.close(CloseCode.SUPERSEDED, "superseded", "a newer connection speaks in this session")
            session.detach(session.speaker.link)
        session.end(Ending.RELEASED)
        await self._until_released(session)

    async def _until_released(self, session: Session) -> None:
        try:
            async with asyncio.timeout(self._deps.limits.release_seconds):
                await session.ended.wait()
        except TimeoutError:
            raise Busy("archive_away", "what was said before is not durable yet; try again", 5) from None

    async def _claim(self, ref: SessionRef, history: History, ticket: Ticket, after: int) -> Session:
        # Should anything fail from here on, the session has no owner: it is finished unless its speaker tries again.
        self._orphans.watch(ref, self._deps.limits.resume_window_seconds, epoch=history.newest_epoch)
        claimant = Claimant.speaker(ticket, self._deps.task, self._deps.now())
        won = await claim(self._deps.store, self._deps.log, ref, claimant, history)
        parts = await assemble(self._deps, ref, won, after)
        session = Session(
            self._deps,
            won,
            parts,
            ref=ref,
            serial=ticket.serial,
            state=archived_state(history),
            herald=self._herald,
        )
        self._owned.begin(session)
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
