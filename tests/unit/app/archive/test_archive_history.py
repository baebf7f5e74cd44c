from __future__ import annotations

import pytest

from app.archive.history import Fence, History, Listing, Piece, merge_finals, newest_note, pieces_of
from app.archive.records import (
    Base,
    EpochRecord,
    FinalsRecord,
    Manifest,
    ManifestObject,
    SegmentHeader,
    SessionRecord,
)
from audio.transcript import CommittedFinal
from tests.support.archives import finals

SESSION = SessionRecord("s", "north", "2026-11-20T09:00:00Z", "dr.a", "en-US")


def epoch(number: int, base: tuple[int, int] | None, serial: int = 0) -> EpochRecord:
    return EpochRecord(number, "t", "speaker", "now", serial=serial, base=Base(*base) if base else None)


def header(number: int, first: int, end: int) -> SegmentHeader:
    return SegmentHeader(number, 0, [], [], 0, first, end - first, "")


def seqs(merged: list[CommittedFinal]) -> list[tuple[int, int]]:
    return [(final.seq, final.epoch) for final in merged]


def manifest(number: int, samples: int = 0, audio: bool = True) -> Manifest:
    stored = ManifestObject("audio.flac", 1, "") if audio else None
    return Manifest("s", "north", number, "completed", "stopped", "now", samples, 0, {}, audio=stored)


def history(*epochs: EpochRecord, end: Manifest | None = None) -> History:
    listing = Listing(tuple(e.epoch for e in epochs), (), (), frozenset())
    return History(SESSION, listing, epochs, end, 0, 0)


# Which audio counts ---------------------------------------------------------------------------------------------------


def test_segments_of_one_owner_make_up_the_session() -> None:
    fence = Fence([epoch(1, (0, 0))])
    assert pieces_of(fence, [header(1, 80, 120), header(1, 0, 80)]) == [
        Piece(0, 1, 0, 80),
        Piece(80, 1, 80, 120),
    ]


def test_what_a_fenced_owner_writes_after_the_cut_does_not_count() -> None:
    fence = Fence([epoch(1, (0, 0)), epoch(2, (80, 0))])
    zombie = [header(1, 80, 160), header(1, 160, 240)]
    assert pieces_of(fence, [header(1, 0, 80), *zombie, header(2, 80, 100)]) == [
        Piece(0, 1, 0, 80),
        Piece(80, 2, 80, 100),
    ]
    assert [fence.segment_counts(s.first, s.epoch) for s in zombie] == [False, False]


def test_a_segment_across_the_cut_counts_up_to_it() -> None:
    fence = Fence([epoch(1, (0, 0)), epoch(2, (50, 0))])
    assert fence.segment_counts(0, 1)
    assert pieces_of(fence, [header(1, 0, 80), header(2, 50, 90)]) == [
        Piece(0, 1, 0, 50),
        Piece(50, 2, 50, 90),
    ]


def test_an_owner_is_cut_by_the_lowest_base_of_any_newer_one() -> None:
    # 3 was fenced by 4, which knew less: it read before 3 wrote.
    fence = Fence([epoch(1, (0, 0)), epoch(3, (100, 0)), epoch(4, (60, 0))])
    assert fence.cut_position(1) == 60
    assert fence.cut_position(3) == 60
    assert fence.cut_position(4) is None
    assert pieces_of(fence, [header(1, 0, 100), header(3, 100, 120), header(4, 60, 70)]) == [
        Piece(0, 1, 0, 60),
        Piece(60, 4, 60, 70),
    ]


def test_a_claim_without_a_base_cuts_nothing_and_counts_for_nothing() -> None:
    fence = Fence([epoch(1, (0, 0)), epoch(2, None)])
    assert fence.cut_position(1) is None
    assert fence.cut_seq(1) is None
    assert fence.base(2) is None
    assert not fence.segment_counts(0, 2)
    assert pieces_of(fence, [header(1, 0, 80), header(2, 80, 90)]) == [Piece(0, 1, 0, 80)]


def test_an_epoch_that_was_never_claimed_counts_for_nothing() -> None:
    fence = Fence([epoch(1, (0, 0))])
    assert pieces_of(fence, [header(9, 0, 80)]) == []
    assert merge_finals(fence, [(9, finals(1, 1, 9))]) == []


def test_audio_before_an_owners_base_is_not_its_own() -> None:
    fence = Fence([epoch(1, (0, 0)), epoch(2, (50, 0))])
    assert pieces_of(fence, [header(2, 40, 90)]) == [Piece(40, 2, 50, 90)]


# Which finals count ---------------------------------------------------------------------------------------------------


def test_finals_are_the_union_of_their_carriers() -> None:
    fence = Fence([epoch(1, (0, 0)), epoch(2, (0, 3))])
    merged = merge_finals(fence, [(2, finals(4, 5, 2)), (1, finals(1, 2)), (2, finals(3, 3))])
    assert seqs(merged) == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]


def test_finals_end_at_the_first_gap() -> None:
    fence = Fence([epoch(1, (0, 0))])
    assert seqs(merge_finals(fence, [(1, finals(1, 2)), (1, finals(4, 9))])) == [(1, 1), (2, 1)]


def test_where_two_carriers_have_a_seq_the_newer_epoch_wins_in_any_order() -> None:
    fence = Fence([epoch(1, (0, 0)), epoch(2, (0, 2))])
    sources = [(2, finals(2, 3, 2)), (1, finals(1, 2))]
    expected = [(1, 1), (2, 2), (3, 2)]
    assert seqs(merge_finals(fence, sources)) == expected
    assert seqs(merge_finals(fence, sources[::-1])) == expected


def test_a_final_after_the_cut_does_not_count() -> None:
    fence = Fence([epoch(1, (0, 0)), epoch(2, (0, 2))])
    merged = merge_finals(fence, [(1, finals(1, 4)), (2, finals(3, 3, 2))])
    assert seqs(merged) == [(1, 1), (2, 1), (3, 2)]


def test_only_finals_after_the_asked_one_are_given() -> None:
    fence = Fence([epoch(1, (0, 0))])
    assert seqs(merge_finals(fence, [(1, finals(1, 5))], after=3)) == [(4, 1), (5, 1)]
    assert merge_finals(fence, [(1, finals(1, 5))], after=5) == []
    assert merge_finals(fence, [(1, finals(1, 5))], after=9) == []


def test_the_newest_note_is_the_newest_owners_last() -> None:
    fence = Fence([epoch(1, (0, 0)), epoch(2, (0, 0)), epoch(3, None)])
    notes = [FinalsRecord(e, seq, [], [], 0) for e, seq in [(1, 9), (2, 1), (2, 4), (3, 7)]]
    assert newest_note(fence, notes) == notes[2]
    assert newest_note(fence, []) is None


# A session ------------------------------------------------------------------------------------------------------------


def test_names_are_sorted_into_kinds() -> None:
    names = ["epochs/10.json", "epochs/9.json", "manifest.json", "session.json", "finals/000000000004-9.json"]
    listing = Listing.of(
        [*names, "segments/000000000080-2", "segments/000000000000-10", "segments/000000000000-9"]
    )
    assert listing == Listing(
        (9, 10), ((0, 9), (0, 10), (80, 2)), ((4, 9),), frozenset({"manifest.json", "session.json"})
    )


def test_the_serial_that_counts_is_of_an_owner_that_promised_something() -> None:
    assert history().speaker_serial == 0
    told = history(epoch(1, (0, 0), 50), epoch(2, None, 70), epoch(3, (0, 0)))
    assert told.speaker_serial == 50
    assert told.newest_epoch == 3
    assert told.based == epoch(3, (0, 0))


@pytest.mark.parametrize(
    ("epochs", "finished"),
    [
        ([epoch(3, (0, 0))], True),
        ([epoch(2, (0, 0)), epoch(3, None)], True),
        ([epoch(3, (0, 0)), epoch(4, None)], True),
        ([epoch(3, (0, 0)), epoch(4, (100, 0))], False),
    ],
)
def test_a_session_is_finished_until_somebody_reopens_it(epochs: list[EpochRecord], finished: bool) -> None:
    assert history(*epochs, end=manifest(3, 100)).finished is finished
    assert not history(*epochs).finished


def test_of_the_finished_audio_counts_what_no_newer_owner_has_cut() -> None:
    assert history(epoch(3, (0, 0)), end=manifest(3, 100)).finished_samples == 100
    assert history(epoch(3, (0, 0)), epoch(4, (80, 0)), end=manifest(3, 100)).finished_samples == 80
    assert history(epoch(3, (0, 0)), epoch(4, (100, 0)), end=manifest(3, 100)).finished_samples == 100
    assert history(epoch(3, (0, 0)), end=manifest(3, 100, audio=False)).finished_samples == 0
    assert history(epoch(3, (0, 0))).finished_samples == 0
