"""What the tail does at the log's odd moments; the rest is in the property tests."""

from __future__ import annotations

import pytest

from app.events.model import START, Bounds, Cursor
from app.events.tail import LogExpired, Tail
from tests.support.events import life_event


def at(ms: int) -> Cursor:
    return Cursor(ms, 0)


def tail_at(ms: int) -> Tail:
    tail = Tail()
    tail.begin(Bounds(START, at(1), at(ms)))
    assert not tail.take([], full=False)
    return tail


def test_a_tail_begins_where_the_log_ends() -> None:
    assert tail_at(7).last == at(7)
    assert tail_at(7).heard(life_event(8, 7))


def test_before_the_first_read_nothing_is_taken() -> None:
    tail = Tail()
    assert not tail.heard(life_event(8, 7))
    assert tail.behind


def test_known_events_are_nothing_new_and_a_gap_asks_for_a_read() -> None:
    tail = tail_at(7)
    assert (tail.heard(life_event(7, 6)), tail.behind) == (False, False)
    assert (tail.heard(life_event(10, 9)), tail.behind) == (False, True)
    assert not tail.begin(Bounds(START, at(1), at(10)))
    assert not tail.take([life_event(9, 7), life_event(10, 9)], full=False)
    assert tail.last == at(10)


def test_what_is_heard_during_a_read_is_read_unless_the_page_has_it() -> None:
    tail = tail_at(7)
    tail.interrupted()
    tail.begin(Bounds(START, at(1), at(8)))
    tail.heard(life_event(8, 7))
    tail.heard(life_event(9, 8))
    assert tail.take([life_event(8, 7)], full=False)
    assert not tail.take([life_event(9, 8)], full=False)
    assert tail.heard(life_event(10, 9))


def test_a_log_that_goes_on_from_before_its_lost_end_is_followed() -> None:
    assert tail_at(7).heard(life_event(9, 5))


def test_a_log_that_lost_its_end_is_read_from_the_last_event_that_it_still_has() -> None:
    tail = tail_at(5)
    for place in (6, 7, 8):
        assert tail.heard(life_event(place, place - 1))
    tail.interrupted()
    assert tail.begin(Bounds(START, at(1), at(7)))
    assert tail.last == at(7)
    tail.interrupted()
    assert tail.begin(Bounds())
    assert tail.last == START


def test_what_was_trimmed_before_it_was_read_is_said_and_the_tail_goes_on_behind_it() -> None:
    tail = tail_at(5)
    tail.interrupted()
    tail.begin(Bounds(at(9), at(10), at(11)))
    page = [life_event(10, 9), life_event(11, 10)]
    with pytest.raises(LogExpired):
        tail.take(page, full=False)
    assert not tail.take(page, full=False)
    assert tail.last == at(11)
