"""What one observer is sent: its own events, once, in order, and no more than it can take."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.events.model import START, Cursor, LogEvent
from app.events.outbox import ANSWERS_MAX, MARKS_MAX, PARTIALS_MAX, WAITING_MAX, Ending, Outbox
from tests.support.events import (
    BESIDE,
    HERE,
    final_event,
    item,
    life_event,
    messages,
    partial,
    rewound_event,
)


def outbox(session: str | None = None, start: Cursor = START, *, live: bool = True) -> Outbox:
    return Outbox(session, start, live=live, wake=lambda: None)


def taken(box: Outbox) -> list[dict[str, Any]]:
    return messages(box.take())


def test_events_come_in_order_each_naming_the_one_before() -> None:
    box = outbox(start=Cursor(3, 0))
    for event in (life_event(5, 3), final_event(6, 5, 1), final_event(9, 6, 2)):
        box.offer(item(event))
    assert [(m["type"], m["cursor"], m["prev"]) for m in taken(box)] == [
        ("session.live", "5-0", "3-0"),
        ("final", "6-0", "5-0"),
        ("final", "9-0", "6-0"),
    ]
    assert taken(box) == []


def test_who_observes_one_session_is_given_a_chain_of_its_own() -> None:
    box = outbox(HERE)
    for event in (
        final_event(5, 0, 1),
        final_event(6, 5, 1, BESIDE),
        life_event(7, 6, session=BESIDE),
        final_event(8, 7, 2),
    ):
        box.offer(item(event))
        box.offer_partial(partial("r9", session=event.session_id))
    got = taken(box)
    assert [(m["sessionId"], m.get("cursor"), m.get("prev")) for m in got] == [
        (HERE, "5-0", "0-0"), (HERE, "8-0", "5-0"), (HERE, None, None),
    ]  # fmt: skip


def test_all_who_are_at_the_same_place_share_one_text() -> None:
    one, two, event = outbox(), outbox(), item(final_event(5, 0, 1))
    one.offer(event)
    two.offer(event)
    assert one.take()[0] is two.take()[0]


def test_a_partial_that_waits_is_replaced_and_never_follows_its_final_or_its_sessions_end() -> None:
    box = outbox()
    for text in ("h", "he", "head"):
        box.offer_partial(partial("r1", text))
    box.offer_partial(partial("r2", "a"))
    box.offer_partial(partial("r1", "else", session=BESIDE))
    assert [m["text"] for m in taken(box)] == ["head", "a", "else"]
    box.offer_partial(partial("r1"))
    box.offer(item(final_event(5, 0, 1)))
    assert [m["type"] for m in taken(box)] == ["final"]
    box.offer_partial(partial("r2"))
    box.offer_partial(partial("r3", session=BESIDE))
    box.offer(item(life_event(6, 5, "completed")))
    assert [(m["type"], m["sessionId"]) for m in taken(box)] == [
        ("session.completed", HERE),
        ("partial", BESIDE),
    ]


def test_too_many_partials_lose_the_oldest() -> None:
    box = outbox()
    fitted = [box.offer_partial(partial(f"r{n}")) for n in range(PARTIALS_MAX + 2)]
    assert fitted == [True] * PARTIALS_MAX + [False] * 2
    assert [m["id"] for m in taken(box)] == [f"r{n}" for n in range(2, PARTIALS_MAX + 2)]


def test_who_is_too_slow_is_told_and_sent_away_and_takes_nothing_more() -> None:
    box = outbox()
    assert all(box.offer(item(final_event(n, n - 1, n))) for n in range(1, WAITING_MAX + 1))
    assert box.crowded
    assert not box.offer(item(final_event(WAITING_MAX + 1, WAITING_MAX, WAITING_MAX + 1)))
    assert box.ending is Ending.TOO_SLOW
    assert box.offer(item(final_event(WAITING_MAX + 2, WAITING_MAX + 1, WAITING_MAX + 2)))
    assert box.offer_partial(partial("r1"))
    assert [m["code"] for m in taken(box)] == ["events_degraded"]


def test_the_first_reason_to_go_stands() -> None:
    box = outbox()
    box.end(Ending.RESTARTING)
    box.end(Ending.TOO_SLOW)
    assert box.ending is Ending.RESTARTING
    assert box.waiting


def test_what_was_queued_before_the_end_is_still_sent() -> None:
    box = outbox()
    box.offer(item(final_event(5, 0, 1)))
    box.end(Ending.RESTARTING)
    assert [m["type"] for m in taken(box)] == ["final"]


def test_finals_that_are_committed_again_come_once_unless_they_were_withdrawn() -> None:
    box = outbox()
    for event in (
        final_event(1, 0, 1),
        final_event(2, 1, 2),
        final_event(3, 2, 1),
        final_event(4, 3, 2),
        final_event(5, 4, 1, BESIDE),
        rewound_event(6, 5, 1),
        final_event(7, 6, 2, epoch=2),
    ):
        box.offer(item(event))
    got = [(m["type"], m["sessionId"], m["seq"]) for m in taken(box)]
    assert got == [
        ("final", HERE, 1), ("final", HERE, 2), ("final", BESIDE, 1), ("notice", HERE, 1), ("final", HERE, 2),
    ]  # fmt: skip


def test_a_newer_owners_final_in_the_place_of_one_that_redis_lost_is_announced() -> None:
    box = outbox()
    for event in (
        final_event(1, 0, 1),
        final_event(2, 1, 2),
        final_event(3, 2, 1),
        final_event(4, 3, 2, epoch=2),
        final_event(5, 4, 3, epoch=2),
    ):
        box.offer(item(event))
    got = [(m["type"], m.get("code"), m["seq"]) for m in taken(box)]
    assert got == [
        ("final", None, 1), ("final", None, 2), ("notice", "finals_rewound", 1), ("final", None, 2), ("final", None, 3),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rewound", "told"),
    [
        (rewound_event(3, 2, 1, epoch=2), True),
        (rewound_event(3, 2, 2, epoch=2), False),
        (rewound_event(3, 2, 1, epoch=1), False),
        (rewound_event(3, 2, 1, epoch=2, session=BESIDE), True),
    ],
    ids=[
        "of a newer owner",
        "of nothing that it has",
        "of the owner that it has them from",
        "who knows what it has",
    ],
)
def test_a_withdrawal_is_told_to_those_who_may_have_what_is_withdrawn(rewound: LogEvent, told: bool) -> None:
    box = outbox()
    for event in (final_event(1, 0, 1), final_event(2, 1, 2), rewound):
        box.offer(item(event))
    assert ("finals_rewound" in [m.get("code") for m in taken(box)]) is told


@pytest.mark.parametrize("live", [False, True], ids=["comes back", "is new"])
@pytest.mark.parametrize("prev", [3, 5], ids=["the log lost what it was told", "the log has all"])
def test_who_was_told_what_the_log_lost_is_told_where_each_session_goes_on(prev: int, live: bool) -> None:
    box = outbox(start=Cursor(5, 0), live=live)
    events = [
        life_event(6, prev, session=BESIDE),
        final_event(7, 6, 4, epoch=2),
        final_event(8, 7, 5, epoch=2),
        final_event(9, 8, 2, BESIDE),
    ]
    if live:
        for event in events:
            box.offer(item(event))
        told = taken(box)
    else:
        told = messages(box.replay([item(event) for event in events], full=False))
    finals = [("final", HERE, 4), ("final", HERE, 5), ("final", BESIDE, 2)]
    if prev < 5 and not live:
        finals.insert(0, ("notice", HERE, 3))
        finals.insert(3, ("notice", BESIDE, 1))
    assert [(m["type"], m["sessionId"], m["seq"]) for m in told if "seq" in m] == finals


def test_an_observer_of_one_session_notices_what_the_log_lost_by_another_ones_event() -> None:
    box = outbox(HERE, Cursor(5, 0), live=False)
    box.arm()
    box.replay([], full=False)
    for event in (life_event(6, 3, session=BESIDE), final_event(7, 6, 4, epoch=2)):
        box.offer(item(event))
    assert [(m["type"], m["seq"]) for m in taken(box)] == [("notice", 3), ("final", 4)]


def test_the_marks_of_sessions_that_spoke_long_ago_are_forgotten() -> None:
    box = outbox()
    for n in range(MARKS_MAX + 5):
        box.offer(item(final_event(n + 1, n, 1, session=f"s{n}")))
        box.take()
    assert len(box._marks) == MARKS_MAX


def test_a_replay_ends_where_what_was_kept_meanwhile_begins() -> None:
    box = outbox(start=Cursor(2, 0), live=False)
    box.offer(item(final_event(3, 2, 1)))
    assert not box.waiting
    box.arm()
    first = box.replay([item(final_event(3, 2, 1)), item(final_event(4, 3, 2))], full=True)
    box.offer(item(final_event(5, 4, 3)))
    box.arm()
    box.offer(item(final_event(6, 5, 4)))
    box.offer(item(final_event(7, 6, 5)))
    last = box.replay([item(final_event(5, 4, 3)), item(final_event(6, 5, 4))], full=False)
    assert [m["seq"] for m in messages(first + last + box.take())] == [1, 2, 3, 4, 5]
    assert box.live


def test_during_a_replay_notices_and_answers_are_given_at_once_and_partials_are_not() -> None:
    box = outbox(live=False)
    box.tell('{"type":"notice"}')
    box.answer('{"type":"pong"}')
    box.offer_partial(partial("r1"))
    assert [m["type"] for m in taken(box)] == ["notice", "pong"]


def test_notices_keep_their_place_among_events_and_pongs_go_first() -> None:
    box = outbox()
    box.offer(item(final_event(1, 0, 1)))
    box.tell('{"type":"notice"}')
    box.offer(item(final_event(2, 1, 2)))
    box.answer('{"type":"pong"}')
    assert [m["type"] for m in taken(box)] == ["pong", "final", "notice", "final"]


def test_answers_are_bounded() -> None:
    box = outbox()
    for n in range(ANSWERS_MAX + 3):
        box.answer(json.dumps(n))
    assert box.take() == [str(n) for n in range(3, ANSWERS_MAX + 3)]


def test_an_event_in_the_place_of_one_that_the_log_lost_is_sent() -> None:
    box = outbox()
    box.offer(item(life_event(9, 0)))
    box.take()
    box.offer(item(life_event(8, 4, "detached")))
    assert box.take() == []
    box.set_back(Cursor(4, 0))
    box.offer(item(life_event(8, 4, "detached")))
    assert [(m["type"], m["prev"]) for m in taken(box)] == [("session.detached", "4-0")]


@pytest.mark.parametrize("live", [True, False])
def test_the_age_of_what_waits_is_that_of_its_oldest_event(live: bool) -> None:
    box = outbox(live=live)
    assert box.oldest is None
    box.arm()
    box.answer("x")
    box.offer(item(final_event(1, 0, 1), heard=5.0))
    box.offer(item(final_event(2, 1, 2), heard=7.0))
    assert box.oldest == 5.0
