from __future__ import annotations

import time

import msgspec
import pytest

from audio.coverage import Coverage, CoverageError, Ranges


def test_ranges_that_touch_or_overlap_become_one() -> None:
    ranges = Ranges([(10, 20), (0, 5), (30, 40)])
    ranges.add(5, 10)
    assert list(ranges) == [(0, 20), (30, 40)]
    ranges.add(15, 35)
    assert list(ranges) == [(0, 40)]


def test_an_empty_range_is_nothing() -> None:
    ranges = Ranges()
    ranges.add(7, 7)
    assert not ranges
    assert ranges == Ranges()


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (5, 4)])
def test_what_is_no_range_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="no range"):
        Ranges().add(start, end)
    with pytest.raises(ValueError, match="no range"):
        list(Ranges().gaps(start, end))


def test_sets_are_combined() -> None:
    one, other = Ranges([(0, 10), (20, 30)]), Ranges([(5, 25), (40, 50)])
    assert list(one.union(other)) == [(0, 30), (40, 50)]
    assert list(one.intersect(other)) == [(5, 10), (20, 25)]
    assert list(one.subtract(other)) == [(0, 5), (25, 30)]
    assert list(other.subtract(one)) == [(10, 20), (40, 50)]
    assert (one, other) == (Ranges([(0, 10), (20, 30)]), Ranges([(5, 25), (40, 50)]))


def test_clip_ends_what_goes_on_too_long() -> None:
    ranges = Ranges([(0, 10), (20, 30)])
    assert list(ranges.clip(25)) == [(0, 10), (20, 25)]
    assert list(ranges.clip(20)) == [(0, 10)]
    assert list(ranges.clip(0)) == []


def test_gaps_and_contents() -> None:
    ranges = Ranges([(5, 10), (20, 30)])
    assert list(ranges.gaps(0, 40)) == [(0, 5), (10, 20), (30, 40)]
    assert list(ranges.gaps(6, 22)) == [(10, 20)]
    assert list(ranges.within(8, 21)) == [(8, 10), (20, 21)]
    assert list(ranges.within(10, 20)) == []
    assert ranges.contains(20, 30)
    assert not ranges.contains(9, 11)
    assert ranges.contains(15, 15)
    assert [position for position in range(12) if position in ranges] == [5, 6, 7, 8, 9]
    assert ranges.total() == 15
    assert len(ranges) == 2


def test_a_copy_changes_by_itself() -> None:
    ranges = Ranges([(0, 1)])
    other = ranges.copy()
    other.add(5, 6)
    assert list(ranges) == [(0, 1)]
    assert ranges != other
    assert ranges != [(0, 1)]
    assert repr(ranges) == "Ranges([(0, 1)])"


def test_ranges_may_not_be_keys() -> None:
    with pytest.raises(TypeError):
        hash(Ranges())


def test_the_wire_form_is_pairs() -> None:
    ranges = Ranges([(0, 5), (8, 9)])
    assert ranges.to_wire() == [[0, 5], [8, 9]]
    assert Ranges.from_wire(msgspec.json.decode(b"[[0,5],[8,9]]")) == ranges


@pytest.mark.parametrize(
    "wire",
    [[[5, 5]], [[5, 3]], [[-1, 3]], [[4, 8], [0, 2]], [[0, 5], [4, 8]], [[0]], [[0, 1.5]], [[False, 1]]],
)
def test_a_damaged_wire_form_is_refused(wire: list[list[int]]) -> None:
    with pytest.raises(ValueError, match=r"range|overlaps"):
        Ranges.from_wire(wire)


def test_appending_many_ranges_takes_linear_time() -> None:
    started = time.process_time()
    ranges = Ranges((at, at + 1) for at in range(0, 400_000, 2))
    whole = ranges.union(Ranges((at, at + 1) for at in range(1, 400_000, 2)))
    assert list(whole) == [(0, 400_000)]
    assert time.process_time() - started < 10


def ledger() -> Coverage:
    return Coverage(
        archived=Ranges([(0, 80), (90, 100)]),
        live=Ranges([(0, 40), (90, 100)]),
        filled=Ranges([(60, 70)]),
        missing=Ranges([(80, 90)]),
    )


def test_untranscribed_is_what_is_archived_and_was_never_heard() -> None:
    assert list(ledger().untranscribed()) == [(40, 60), (70, 80)]


def test_the_fraction_archived() -> None:
    assert ledger().fraction_archived() == 0.9
    assert Coverage().fraction_archived() == 1.0


def test_a_ledger_that_accounts_for_every_sample_passes() -> None:
    ledger().check(100)
    Coverage().check(0)


@pytest.mark.parametrize(
    ("coverage", "field"),
    [
        (Coverage(archived=Ranges([(0, 90)])), "archived"),
        (Coverage(archived=Ranges([(0, 101)])), "archived"),
        (Coverage(archived=Ranges([(0, 100)]), missing=Ranges([(99, 100)])), "missing"),
        (Coverage(archived=Ranges([(0, 100)]), live=Ranges([(0, 101)])), "live"),
        (Coverage(archived=Ranges([(0, 100)]), filled=Ranges([(100, 101)])), "filled"),
        (Coverage(archived=Ranges([(0, 90)]), missing=Ranges([(90, 110)])), "missing"),
    ],
)
def test_a_ledger_that_contradicts_itself_is_refused(coverage: Coverage, field: str) -> None:
    with pytest.raises(CoverageError) as wrong:
        coverage.check(100)
    assert wrong.value.field == field


def test_without_audio_what_was_heard_and_what_is_missing_make_the_whole() -> None:
    heard = Coverage(live=Ranges([(0, 60)]), missing=Ranges([(60, 100)]))
    heard.check(100, keeps_audio=False)
    with pytest.raises(CoverageError):
        heard.check(100)
    with pytest.raises(CoverageError):
        heard.check(101, keeps_audio=False)
    with pytest.raises(CoverageError, match="keeps no audio"):
        Coverage(archived=Ranges([(0, 9)]), live=Ranges([(0, 9)])).check(9, keeps_audio=False)


def test_the_ledger_survives_the_wire() -> None:
    wire = msgspec.json.decode(msgspec.json.encode(ledger().to_wire()))
    assert wire["untranscribed"] == [[40, 60], [70, 80]]
    assert Coverage.from_wire(wire) == ledger()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("live", None),
        ("missing", [[9, 1]]),
        ("filled", 7),
        ("filled", [7]),
        ("untranscribed", [[0, 1]]),
        ("untranscribed", None),
    ],
)
def test_a_damaged_ledger_is_refused(name: str, value: list[list[int]] | None) -> None:
    wire = ledger().to_wire()
    if value is None:
        del wire[name]
    else:
        wire[name] = value
    with pytest.raises(CoverageError) as wrong:
        Coverage.from_wire(wire)
    assert wrong.value.field == name
