"""Cursors as text and in order, and what a log still holds."""

from __future__ import annotations

import pytest

from app.events.model import START, Bounds, Cursor


def test_cursors_are_read_written_and_ordered_as_the_log_is() -> None:
    texts = ["0-0", "5-0", "5-1", "5-10", "10-0", "1700000000000-3"]
    cursors = [Cursor.parse(text) for text in texts]
    assert [str(cursor) for cursor in cursors] == texts
    assert cursors == sorted(cursors)
    assert cursors[0] == START


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5-",
        "-5",
        "5-1-1",
        " 5-1",
        "5-1\n",
        "\u0665-1",
        "+5-1",
        f"{2**64}-0",
        f"0-{2**64}",
        "9" * 30 + "-0",
    ],
)
def test_what_is_no_cursor_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="cursor"):
        Cursor.parse(text)


def at(ms: int) -> Cursor:
    return Cursor(ms, 0)


@pytest.mark.parametrize(
    ("bounds", "cursor", "held"),
    [
        (Bounds(), START, True),
        (Bounds(), at(5), False),
        (Bounds(START, at(10), at(20)), START, True),
        (Bounds(START, at(10), at(20)), at(5), False),
        (Bounds(START, at(10), at(20)), at(10), True),
        (Bounds(START, at(10), at(20)), at(20), True),
        (Bounds(START, at(10), at(20)), at(25), True),
        (Bounds(at(8), at(10), at(20)), at(7), False),
        (Bounds(at(8), at(10), at(20)), at(8), True),
        (Bounds(at(8), at(10), at(20)), at(9), True),
        (Bounds(at(8), at(10), at(20)), START, True),
    ],
)
def test_a_cursor_is_good_while_all_that_came_after_it_is_there(
    bounds: Bounds, cursor: Cursor, held: bool
) -> None:
    assert bounds.holds(cursor) is held
