"""An event log in memory that can be away, lose its answers, or lose everything. Passes the contract suite of event logs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from app.events.log import CommitOutcome, LogUnavailable
from audio.transcript import CommittedFinal
from tenants.terms import SessionRef

T = TypeVar("T")


@dataclass
class _Owned:
    epoch: int
    task: str
    base: int
    seq: int


@dataclass
class MemoryLog:
    """As one Redis: each call is one step.

    Attributes:
        away: every call fails and changes nothing.
        answers_lost: so many calls from now on are carried out, and fail all the same.
        events: kinds of events appended, with their session.
        committed: every final that was ever committed, in order.
    """

    away: bool = False
    answers_lost: int = 0
    events: list[tuple[SessionRef, str]] = field(default_factory=list)
    committed: list[CommittedFinal] = field(default_factory=list)
    _owned: dict[SessionRef, _Owned] = field(default_factory=dict)
    _pending: dict[SessionRef, dict[int, CommittedFinal]] = field(default_factory=dict)

    def forget_everything(self) -> None:
        """As a Redis that starts again."""
        self._owned.clear()
        self._pending.clear()

    async def announce(self, ref: SessionRef, epoch: int, seq: int, task: str) -> list[CommittedFinal] | None:
        await self._begin()
        known = self._owned.get(ref)
        if known is not None and known.epoch > epoch:
            return self._answer(None)
        held, adopted = self._pending.get(ref, {}), list[CommittedFinal]()
        while (final := held.get(seq + len(adopted) + 1)) is not None:
            adopted.append(final)
        self._pending[ref] = {final.seq: final for final in adopted}
        self._owned[ref] = _Owned(epoch, task, seq, seq + len(adopted))
        return self._answer(adopted)

    async def commit(self, ref: SessionRef, epoch: int, finals: Sequence[CommittedFinal]) -> CommitOutcome:
        if not finals:
            raise ValueError("there is nothing to commit")
        first = finals[0].seq
        if any(final.seq != first + place or final.epoch != epoch for place, final in enumerate(finals)):
            raise ValueError("finals are committed with consecutive seq, in their own epoch")
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

    async def _begin(self) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise LogUnavailable("away")

    def _answer(self, answer: T) -> T:
        if self.answers_lost:
            self.answers_lost -= 1
            raise LogUnavailable("lost")
        return answer
