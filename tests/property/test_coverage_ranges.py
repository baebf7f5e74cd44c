"""Ranges against the plainest model: a set of whole numbers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from audio.coverage import Coverage, Ranges

END = 60
PAIRS = st.lists(
    st.tuples(st.integers(0, END), st.integers(0, END)).map(lambda pair: (min(pair), max(pair))), max_size=12
)


def members(pairs: list[tuple[int, int]]) -> set[int]:
    return {position for start, end in pairs for position in range(start, end)}


def is_canonical(ranges: Ranges) -> bool:
    pairs = list(ranges)
    return all(start < end for start, end in pairs) and all(
        one[1] < other[0] for one, other in pairwise(pairs)
    )


@given(PAIRS)
def test_ranges_are_the_set_of_what_was_added(pairs: list[tuple[int, int]]) -> None:
    ranges, model = Ranges(pairs), members(pairs)
    assert is_canonical(ranges)
    assert members(list(ranges)) == model
    assert ranges.total() == len(model)
    assert {position for position in range(END + 1) if position in ranges} == model
    assert Ranges.from_wire(ranges.to_wire()) == ranges
    assert Ranges(reversed(pairs)) == ranges


@given(PAIRS, PAIRS)
def test_combining_ranges_is_combining_sets(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    for combined, model in (
        (Ranges(one).union(Ranges(other)), members(one) | members(other)),
        (Ranges(one).subtract(Ranges(other)), members(one) - members(other)),
        (Ranges(one).intersect(Ranges(other)), members(one) & members(other)),
    ):
        assert is_canonical(combined)
        assert members(list(combined)) == model
    assert (Ranges(one) == Ranges(other)) == (members(one) == members(other))


@given(PAIRS, st.integers(0, END), st.integers(0, END))
def test_gaps_and_clips(pairs: list[tuple[int, int]], one: int, other: int) -> None:
    ranges, model, start, end = Ranges(pairs), members(pairs), min(one, other), max(one, other)
    asked = set(range(start, end))
    assert members(list(ranges.gaps(start, end))) == asked - model
    assert members(list(ranges.within(start, end))) == asked & model
    assert ranges.contains(start, end) == (asked <= model)
    assert members(list(ranges.clip(end))) == {position for position in model if position < end}


@given(PAIRS, PAIRS, PAIRS, st.integers(0, END))
def test_a_ledger_with_all_else_missing_adds_up(
    archived: list[tuple[int, int]], live: list[tuple[int, int]], filled: list[tuple[int, int]], samples: int
) -> None:
    kept = Ranges(archived).clip(samples)
    missing = Ranges([(0, samples)]).subtract(kept)
    coverage = Coverage(kept, Ranges(live).clip(samples), Ranges(filled).clip(samples), missing)
    coverage.check(samples)
    assert Coverage.from_wire(coverage.to_wire()) == coverage
    assert members(list(coverage.untranscribed())) == members(list(kept)) - members(live) - members(filled)
    assert 0.0 <= coverage.fraction_archived() <= 1.0
