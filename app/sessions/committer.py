"""Engine finals to committed finals: numbered, appended to the log or made durable, then told.

A final is told only after one of two things is true: the log appended it in the script that checks epoch and seq,
or an object of the archive carries it and no newer epoch was there afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final as Constant
from typing import Protocol

from app.events.log import LogUnavailable
from app.sessions.finals import FinalsBook
from app.sessions.log_tail import LogTail
from audio.transcript import CommittedFinal, Final

CATCH_UP_SECONDS: Constant = 1.0
"""Between two attempts to bring a log up to date that did not answer."""

CHECK_SECONDS: Constant = 5.0
"""In a session in which nothing is said, between two looks whether the log has lost what it was given."""


class CommitterEvents(Protocol):
    """Whom the committer tells; synchronous and quick."""

    def on_committed(self, finals: list[CommittedFinal], seconds: float) -> None:
        """These finals are committed, in order; that took ``seconds``."""

    def on_log_lost(self) -> None:
        """The log did not answer; finals are committed in the archive meanwhile."""


class Carrier(Protocol):
    """The part of the recorder that finals need."""

    def finals_arrived(self) -> None:
        """The next segment has finals to carry."""

    async def drain(self) -> None:
        """Return when everything in the book is durable, and no newer owner was there afterwards."""


class Committer:
    """One session's committer; ``run`` is owned by the session's TaskGroup.

    Args:
        tail: the log's end.
        recorder: carries committed finals, and commits by making them durable while the log is away.

    The queue is bounded by the audio that the session's window lets in.
    """

    def __init__(
        self,
        *,
        tail: LogTail,
        book: FinalsBook,
        events: CommitterEvents,
        recorder: Carrier,
        clock: Callable[[], float],
    ) -> None:
        self._tail, self._book, self._events, self._recorder = tail, book, events, recorder
        self._clock = clock
        self._waiting: list[Final] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    def add(self, final: Final) -> None:
        """Commit ``final`` after those added before."""
        self._waiting.append(final)
        self._idle.clear()
        self._wake.set()

    def log_forgot(self) -> None:
        """The log does not know this owner any more: it is told again, without waiting for the next final."""
        self._tail.forgotten()
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
            await self._until_needed()
            while self._waiting:
                batch, self._waiting = self._book.number(self._waiting), []
                began = self._clock()
                await self._commit(batch)
                self._book.mark_committed(batch[-1].seq)
                self._recorder.finals_arrived()
                self._events.on_committed(batch, self._clock() - began)
            self._idle.set()

    async def _until_needed(self) -> None:
        """Wait for finals; meanwhile see to it that the log gets what it lacks."""
        while not self._waiting:
            self._wake.clear()
            if self._tail.in_step:
                await self._look_now_and_then()
                continue
            try:
                done = await self._tail.append()
            except LogUnavailable:
                done = False
            if not done:
                with suppress(TimeoutError):
                    async with asyncio.timeout(CATCH_UP_SECONDS):
                        await self._wake.wait()

    async def _look_now_and_then(self) -> None:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            with suppress(LogUnavailable):
                await self._tail.check()

    async def _commit(self, batch: list[CommittedFinal]) -> None:
        try:
            in_log = await self._tail.append(batch)
        except LogUnavailable:
            self._events.on_log_lost()
            in_log = False
        self._book.keep(batch)
        if not in_log:
            await self._recorder.drain()
