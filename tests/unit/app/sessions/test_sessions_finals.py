from __future__ import annotations

import pytest

from app.sessions.finals import RECENT_FINALS, FinalsBook
from audio.transcript import CommittedFinal
from tests.support.archives import a_final


def add(book: FinalsBook, count: int) -> list[CommittedFinal]:
    numbered = book.number([a_final(n, n, n) for n in range(book.numbered + 1, book.numbered + count + 1)])
    book.keep(numbered)
    return numbered


def seqs(finals: list[CommittedFinal] | None) -> list[int] | None:
    return None if finals is None else [final.seq for final in finals]


def test_finals_are_numbered_after_those_of_earlier_owners() -> None:
    book = FinalsBook(epoch=3, seq=41)
    numbered = book.number([a_final(1, 0, 5), a_final(2, 5, 9)])
    assert [(f.seq, f.epoch, f.final.id) for f in numbered] == [(42, 3, "u1"), (43, 3, "u2")]
    assert (book.numbered, book.committed, book.archived) == (41, 41, 41)
    book.keep(numbered)
    assert (book.numbered, book.committed, book.archived) == (43, 41, 41)


def test_what_does_not_follow_on_is_refused() -> None:
    book = FinalsBook(epoch=1, seq=0)
    add(book, 2)
    for wrong in (1, 2, 4):
        with pytest.raises(ValueError, match="follow"):
            book.keep([CommittedFinal(wrong, 1, a_final(wrong, 0, 1))])
    book.keep([])
    assert book.numbered == 2


def test_only_committed_finals_may_be_told() -> None:
    book = FinalsBook(epoch=1, seq=0)
    add(book, 3)
    assert book.since(0) == []
    book.mark_committed(2)
    assert seqs(book.since(0)) == [1, 2]
    assert seqs(book.since(1)) == [2]
    assert book.since(2) == []
    assert book.since(3) == []


def test_finals_may_be_archived_before_they_are_committed() -> None:
    book = FinalsBook(epoch=1, seq=0)
    add(book, 3)
    assert seqs(book.unarchived()) == [1, 2, 3]
    book.mark_archived(2)
    assert seqs(book.unarchived()) == [3]
    assert book.since(0) == []
    book.mark_committed(3)
    assert seqs(book.since(0)) == [1, 2, 3]


def test_marks_never_fall() -> None:
    book = FinalsBook(epoch=1, seq=0)
    add(book, 5)
    book.mark_committed(4)
    book.mark_archived(3)
    book.mark_committed(1)
    book.mark_archived(1)
    assert (book.committed, book.archived) == (4, 3)


def test_memory_holds_the_newest_and_whatever_is_not_archived() -> None:
    book = FinalsBook(epoch=1, seq=0)
    add(book, 1000)
    book.mark_committed(1000)
    assert seqs(book.since(0)) == list(range(1, 1001))
    book.mark_archived(1000)
    assert book.since(1000 - RECENT_FINALS - 1) is None
    assert seqs(book.since(1000 - RECENT_FINALS)) == list(range(1001 - RECENT_FINALS, 1001))
    assert book.numbered == 1000
    assert book.unarchived() == []


def test_what_was_not_told_is_not_forgotten() -> None:
    book = FinalsBook(epoch=1, seq=0)
    add(book, 1000)
    book.mark_archived(1000)
    book.mark_committed(1000)
    assert seqs(book.since(0)) == list(range(1, 1001))


def test_finals_before_this_owners_are_elsewhere() -> None:
    book = FinalsBook(epoch=2, seq=10)
    assert book.since(9) is None
    assert book.since(10) == []


def test_lost_finals_are_taken_back_from_whoever_may_hold_them() -> None:
    book = FinalsBook(epoch=2, seq=3)
    assert [book.rewind(after) for after in (0, 3)] == [0, 3]
    assert book.rewind(5) == 3
    add(book, 4)
    book.mark_committed(7)
    # The client may have been cut off before it heard of it, and what it calls 5 is not what is 5 now.
    assert [book.rewind(after) for after in (2, 3, 5, 7)] == [2, 3, 3, 3]


def test_finals_that_were_not_lost_are_never_taken_back() -> None:
    book = FinalsBook(epoch=1, seq=0)
    add(book, 7)
    book.mark_committed(7)
    assert [book.rewind(after) for after in (0, 5, 7)] == [0, 5, 7]
