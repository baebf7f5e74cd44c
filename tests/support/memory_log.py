"""An event log in memory that can be away, lose its answers, or lose everything. Passes the contract suite of event logs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from app.events.log import Announced, CommitOutcome, LogUnavailable
from audio.transcript import CommittedFinal, Partial
from tenants.terms import SessionRef

T = TypeVar("T")


def had(announced: Announced | None) -> tuple[list[CommittedFinal], int | None]:
    """What a log that took the owner held, and what it knew."""
    assert announced is not None
    return announced.held, announced.known


@dataclass
class _Owned:
    epoch: int
    task: str
    base: int
    seq: int


@dataclass
class MemoryLog:
    """As one Redis: each call is one step. Also a Publisher and an OwnerBoard.

    Attributes:
        away: every call fails and changes nothing.
        answers_lost: so many calls from now on are carried out, and fail all the same.
        events: kinds of events appended, with their session.
        committed: every final that was ever committed, in order.
        followed: the finals that somebody has who followed a session from the beginning, without doubles.
        partials: every partial that was published, with its session and epoch.
        rewinds: every ``rewound`` event, as its session and the last final that stood.
    """

    away: bool = False
    answers_lost: int = 0
    events: list[tuple[SessionRef, str]] = field(default_factory=list)
    committed: list[CommittedFinal] = field(default_factory=list)
    followed: dict[SessionRef, list[CommittedFinal]] = field(default_factory=dict)
    partials: list[tuple[SessionRef, int, Partial]] = field(default_factory=list)
    rewinds: list[tuple[SessionRef, int]] = field(default_factory=list)
    _owned: dict[SessionRef, _Owned] = field(default_factory=dict)
    _pending: dict[SessionRef, dict[int, CommittedFinal]] = field(default_factory=dict)
    _told: dict[SessionRef, int] = field(default_factory=dict)

    def forget_everything(self) -> None:
        """As a Redis that starts again."""
        self._owned.clear()
        self._pending.clear()
        self._told.clear()

    def forget_after(self, ref: SessionRef, seq: int) -> None:
        """As a replica that lacked the session's finals after ``seq`` when it took over."""
        self._owned[ref].seq = self._told[ref] = seq
        self._pending[ref] = {number: final for number, final in self._pending[ref].items() if number <= seq}
        self.committed = [final for final in self.committed if final.seq <= seq]

    async def announce(
        self, ref: SessionRef, epoch: int, seq: int, task: str, stands: int | None = None
    ) -> Announced | None:
        await self._begin()
        owned = self._owned.get(ref)
        if owned is not None and owned.epoch > epoch:
            return self._answer(None)
        held, adopted = self._pending.get(ref, {}), list[CommittedFinal]()
        while (final := held.get(seq + len(adopted) + 1)) is not None:
            adopted.append(final)
        self._pending[ref] = {final.seq: final for final in adopted}
        last, known = seq + len(adopted), self._told.get(ref)
        self._owned[ref] = _Owned(epoch, task, seq, last)
        if known is not None and known > last:
            self._told[ref] = last
            self._withdraw(ref, last)
        elif owned is None and epoch > 1:
            self._withdraw(ref, last if stands is None else min(stands, last))
        return self._answer(Announced(adopted, known, owned.epoch if owned is not None else None))

    async def commit(self, ref: SessionRef, epoch: int, finals: Sequence[CommittedFinal]) -> CommitOutcome:
        if not finals:
            raise ValueError("there is nothing to commit")
        first = finals[0].seq
        if any(final.seq != first + place or final.epoch > epoch for place, final in enumerate(finals)):
            raise ValueError("finals are committed with consecutive seq, in no newer epoch")
        await self._begin()
        owned = self._owned.get(ref)
        if owned is None or owned.epoch < epoch:
            return self._answer(CommitOutcome.UNKNOWN)
        if owned.epoch > epoch:
            return self._answer(CommitOutcome.STALE)
        if not owned.base < first <= owned.seq + 1:
            return self._answer(CommitOutcome.UNKNOWN)
        for final in finals[max(0, owned.seq + 1 - first) :]:
            owned.seq = final.seq
            self._pending[ref][final.seq] = final
            self.committed.append(final)
            self._told[ref] = final.seq
            self._follow(ref, final)
        return self._answer(CommitOutcome.COMMITTED)

    async def pending(self, ref: SessionRef) -> list[CommittedFinal]:
        await self._begin()
        return self._answer([final for _, final in sorted(self._pending.get(ref, {}).items())])

    async def archived(self, ref: SessionRef, epoch: int, seq: int) -> None:
        await self._begin()
        owned = self._owned.get(ref)
        if owned is not None and owned.epoch == epoch:
            held = self._pending[ref]
            self._pending[ref] = {number: final for number, final in held.items() if number > seq}
        self._answer(None)

    async def append(self, ref: SessionRef, kind: str, fields: dict[str, object]) -> None:
        del fields
        await self._begin()
        self.events.append((ref, kind))
        self._answer(None)

    def _withdraw(self, ref: SessionRef, seq: int) -> None:
        self.events.append((ref, "rewound"))
        self.rewinds.append((ref, seq))
        self.followed[ref] = [final for final in self.followed.get(ref, []) if final.seq <= seq]

    def _follow(self, ref: SessionRef, final: CommittedFinal) -> None:
        has = self.followed.setdefault(ref, [])
        if not has or final.seq > has[-1].seq:
            has.append(final)

    def partial(self, ref: SessionRef, epoch: int, partial: Partial) -> None:
        if not self.away:
            self.partials.append((ref, epoch, partial))

    def event(self, ref: SessionRef, kind: str, fields: dict[str, object]) -> None:
        del fields
        if not self.away:
            self.events.append((ref, kind))

    async def epochs(self, refs: Sequence[SessionRef]) -> list[int | None]:
        await self._begin()
        owned = [self._owned.get(ref) for ref in refs]
        return self._answer([one.epoch if one is not None else None for one in owned])

    async def _begin(self) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise LogUnavailable("away")

    def _answer(self, answer: T) -> T:
        if self.answers_lost:
            self.answers_lost -= 1
            raise LogUnavailable("lost")
        return answer
