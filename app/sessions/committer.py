"""Engine finals to committed finals: numbered, appended to the log or made durable, then told.

A final is told only after one of two things is true: the log appended it in the script that checks epoch and seq,
or an object of the archive carries it and no newer epoch was there afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from app.events.log import CommitOutcome, EventLog, LogUnavailable
from app.sessions.finals import FinalsBook
from audio.transcript import CommittedFinal, Final
from tenants.terms import SessionRef


class Fenced(Exception):
    """A newer epoch owns the session; this task must let go of it without promising anything more."""


class CommitterEvents(Protocol):
    """Whom the committer tells; synchronous and quick."""

    def on_committed(self, finals: list[CommittedFinal]) -> None:
        """These finals are committed, in order."""

    def on_log_lost(self) -> None:
        """The log did not answer; finals are committed in the archive meanwhile."""


class Carrier(Protocol):
    """The part of the recorder that finals need."""

    def finals_arrived(self) -> None:
        """The next segment has finals to carry."""

    async def drain(self) -> None:
        """Return when everything in the book is durable."""


class Committer:
    """One session's committer; ``run`` is owned by the session's TaskGroup.

    Args:
        recorder: carries committed finals, and commits by making them durable while the log is away.
        confirm: raises Fenced when the archive holds a newer epoch; returns when it is known that it does not.
        announced: see ``Claim``.

    The queue is bounded by the audio that the session's window lets in.
    """

    def __init__(
        self,
        *,
        log: EventLog,
        ref: SessionRef,
        epoch: int,
        task: str,
        book: FinalsBook,
        events: CommitterEvents,
        recorder: Carrier,
        confirm: Callable[[], Awaitable[None]],
        announced: bool = True,
    ) -> None:
        self._log, self._ref, self._epoch, self._task = log, ref, epoch, task
        self._book, self._events, self._recorder, self._confirm = book, events, recorder, confirm
        self._announced = announced
        self._waiting: list[Final] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, final: Final) -> None:
        """Commit ``final`` after those added before."""
        self._waiting.append(final)
        self._idle.clear()
        self._wake.set()

    async def settle(self) -> None:
        """Return when everything added before is committed. Cancellation-safe."""
        await self._idle.wait()

    async def run(self) -> None:
        """Commit until cancelled.

        Raises:
            Fenced: see there.
        """
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch, self._waiting = self._book.number(self._waiting), []
                await self._commit(batch)
                self._book.mark_committed(batch[-1].seq)
                self._recorder.finals_arrived()
                self._events.on_committed(batch)
            self._idle.set()

    async def _commit(self, batch: list[CommittedFinal]) -> None:
        try:
            outcome = CommitOutcome.UNKNOWN
            if self._announced:
                outcome = await self._log.commit(self._ref, self._epoch, batch)
            if outcome is CommitOutcome.UNKNOWN:
                outcome = await self._reannounce(batch)
        except LogUnavailable:
            self._events.on_log_lost()
            outcome = CommitOutcome.UNKNOWN
        if outcome is CommitOutcome.STALE:
            raise Fenced
        self._book.keep(batch)
        if outcome is CommitOutcome.UNKNOWN:
            await self._recorder.drain()
            await self._confirm()

    async def _reannounce(self, batch: list[CommittedFinal]) -> CommitOutcome:
        # The log was emptied, or missed what went to the archive. Whether it may be told again is the archive's to say.
        await self._confirm()
        held = await self._announce(self._book.numbered)
        if held and held[-1].epoch != self._epoch:
            # An older owner's, whom nobody could ask for them when this one came: they are not the session's any more.
            await self._announce(held[-1].seq)
            held = await self._announce(self._book.numbered)
        if held is None:
            return CommitOutcome.STALE
        self._announced = True
        return await self._log.commit(self._ref, self._epoch, batch)

    async def _announce(self, seq: int) -> list[CommittedFinal] | None:
        return await self._log.announce(self._ref, self._epoch, seq, self._task)
