"""Keeps the event log in step with a session's finals: in order, without a gap, whatever the log forgot or slept through.

What was committed in the archive while the log was away, and what the log lost, is appended as soon as it answers, before
anything newer. So whoever follows the log gets every final, however it was committed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from app.archive.history import Fence
from app.events.log import Announced, CommitOutcome, EventLog
from app.sessions.finals import FinalsBook
from audio.transcript import CommittedFinal
from tenants.terms import SessionRef

STEP_FINALS: Final = 100
"""Appended in one step while catching up."""

TOLD_AGAIN: Final = 256
"""Of a session's finals so many, the newest, go into a log that has told none of them: it was emptied, or never asked."""


class Fenced(Exception):
    """A newer epoch owns the session; this task must let go of it without promising anything more."""


def log_position(found: Announced, seq: int, fence: Fence) -> int:
    """The last final after which the log goes on, of a session whose last one is ``seq``.

    What an owner told beyond the base of a newer one, of whom the log never heard, does not stand.
    """
    if found.known is None:
        return max(0, seq - TOLD_AGAIN)
    cut = fence.cut_seq(found.owner) if found.owner is not None else None
    return min(found.known, seq) if cut is None else min(found.known, seq, cut)


class LogTail:
    """One owner's end of the log. Its calls are made one after the other, by one task.

    Args:
        confirm: raises Fenced when the archive holds a newer epoch; returns when it is known that it does not.
        earlier: the archive's finals after one ``seq`` up to another, for a log that lacks more than the book remembers.
        at: the last final that the log told of, or None where it must first be told who owns the session.
        fence: the epochs up to this owner's.
    """

    def __init__(
        self,
        *,
        log: EventLog,
        ref: SessionRef,
        epoch: int,
        task: str,
        book: FinalsBook,
        confirm: Callable[[], Awaitable[None]],
        earlier: Callable[[int, int], Awaitable[Sequence[CommittedFinal]]],
        at: int | None,
        fence: Fence,
    ) -> None:
        self._log, self._ref, self._epoch, self._task = log, ref, epoch, task
        self._book, self._confirm, self._earlier = book, confirm, earlier
        self._at, self._fence = at, fence
        self._base, self._own = book.numbered, 0

    @property
    def in_step(self) -> bool:
        """Whether the log has told of everything in the book, as far as is known."""
        return self._at == self._book.numbered

    async def archived(self, seq: int) -> None:
        """The archive carries the finals up to ``seq``: the log need not keep them for another owner.

        Raises:
            LogUnavailable: see there.
        """
        await self._log.archived(self._ref, self._epoch, seq)

    async def check(self) -> None:
        """Find out whether the log has lost its end: the last final that this owner committed is offered again.

        Where it is there, that changes nothing. An older owner's is not asked for: had it been lost, so were the
        announcement of this one, which came after it.

        Raises:
            Fenced, LogUnavailable: as ``append``.
        """
        if self._at is None or self._at != self._own:
            return
        last = self._book.since(self._at - 1)
        if last and not await self._commit(last):
            self.forgotten()

    def forgotten(self) -> None:
        """The log was emptied, or knows an older owner: it is told anew by the next call."""
        self._at = None

    def unburden(self) -> None:
        """The session is over: the finals that the log lacks are kept by the archive, and but the last no more in memory."""
        seq = self._book.numbered
        self._book = FinalsBook(epoch=self._epoch, seq=seq, recent=self._book.since(seq - 1) or ())

    async def append(self, batch: Sequence[CommittedFinal] = ()) -> bool:
        """Append what the log lacks, then ``batch``, which the book does not hold yet.

        Returns whether the log holds all of it; False means that it keeps forgetting.

        Raises:
            Fenced: a newer owner has the session.
            LogUnavailable: the log did not answer; it may have done what was asked.
        """
        lacking = None if self._at is None else self._book.since(self._at)
        if lacking is not None and await self._commit([*lacking, *batch]):
            return True
        return await self._catch_up() and await self._commit(batch)

    async def _catch_up(self) -> bool:
        # Asked for its answer alone: the archive is not to be troubled for a log that is away.
        await self._log.pending(self._ref)
        # Whether the log may be told at all is the archive's to say.
        await self._confirm()
        self._at = at = await self._announced()
        while at < self._book.numbered:
            lacking = self._book.since(at) or list(await self._earlier(at, self._book.oldest))
            if not lacking or not await self._commit(lacking[:STEP_FINALS]):
                return False
            at = lacking[:STEP_FINALS][-1].seq
        return True

    async def _announced(self) -> int:
        """Tell the log who owns the session; return the last final that it has told of, from where it goes on."""
        book = self._book
        first = await self._announce(book.numbered)
        if first.held:
            # An older owner's, whom nobody could ask for them when this one came: they are not the session's any more.
            await self._announce(first.held[-1].seq)
            await self._announce(book.numbered)
        at = log_position(first, book.numbered, self._fence)
        if self._at is not None:
            at = min(at, self._at)
        if at < book.numbered:
            await self._announce(at)
        return at

    async def _announce(self, seq: int) -> Announced:
        self._own = 0
        # A log that was emptied is told anew of the newest finals: what it says of older owners' must not go further back.
        stands = max(self._base, self._book.numbered - TOLD_AGAIN)
        found = await self._log.announce(self._ref, self._epoch, seq, self._task, stands)
        if found is None:
            raise Fenced
        return found

    async def _commit(self, finals: Sequence[CommittedFinal]) -> bool:
        if not finals:
            return True
        outcome = await self._log.commit(self._ref, self._epoch, finals)
        if outcome is CommitOutcome.STALE:
            raise Fenced
        if outcome is CommitOutcome.COMMITTED:
            self._at = self._own = finals[-1].seq
        return outcome is CommitOutcome.COMMITTED
