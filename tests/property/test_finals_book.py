"""The book of finals against lists that forget nothing."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.sessions.finals import RECENT_FINALS, FinalsBook
from audio.transcript import CommittedFinal
from tests.support.archives import a_final


class Book(RuleBasedStateMachine):
    @initialize(seq=st.integers(0, 50), epoch=st.integers(1, 9))
    def begin(self, seq: int, epoch: int) -> None:
        self.book = FinalsBook(epoch=epoch, seq=seq)
        self.first = self.committed = self.archived = seq
        self.all: list[CommittedFinal] = []
        self.epoch = epoch

    @property
    def numbered(self) -> int:
        return self.first + len(self.all)

    @rule(count=st.integers(0, 300))
    def keep(self, count: int) -> None:
        finals = [a_final(n, n, n + 1) for n in range(self.numbered, self.numbered + count)]
        batch = self.book.number(finals)
        assert [f.seq for f in batch] == list(range(self.numbered + 1, self.numbered + count + 1))
        assert all(f.epoch == self.epoch for f in batch)
        self.book.keep(batch)
        self.all += batch

    @precondition(lambda self: self.all)
    @rule(share=st.floats(0, 1))
    def commit(self, share: float) -> None:
        seq = self.committed + round(share * (self.numbered - self.committed))
        self.book.mark_committed(seq)
        self.committed = seq

    @precondition(lambda self: self.all)
    @rule(share=st.floats(0, 1))
    def archive(self, share: float) -> None:
        seq = self.archived + round(share * (self.numbered - self.archived))
        self.book.mark_archived(seq)
        self.archived = seq
        kept = self.numbered - self.book._base
        assert kept <= max(RECENT_FINALS, self.numbered - min(self.archived, self.committed))

    @rule(back=st.integers(0, 700))
    def ask(self, back: int) -> None:
        seq = max(0, self.numbered - back)
        found = self.book.since(seq)
        told = [f for f in self.all if seq < f.seq <= self.committed]
        if found is None:
            # Only what is archived, committed and not among the newest may be forgotten.
            assert seq < self.first or seq < min(self.archived, self.committed, self.numbered - RECENT_FINALS)
        else:
            assert found == told

    @invariant()
    def nothing_is_lost_on_the_way(self) -> None:
        if not hasattr(self, "book"):
            return
        assert self.book.unarchived() == [f for f in self.all if f.seq > self.archived]
        marks = (self.book.numbered, self.book.committed, self.book.archived)
        assert marks == (self.numbered, self.committed, self.archived)


TestBook = Book.TestCase
