"""Partials that come too late."""

from __future__ import annotations

from app.events.settled import RESULTS_MAX, SESSIONS_MAX, Settled
from tests.support.events import BESIDE, final_event, item, life_event, partial, rewound_event


def test_a_result_that_is_final_has_no_more_partials() -> None:
    settled = Settled()
    assert settled.admits(partial("r1"))
    settled.note(item(final_event(1, 0, 1)))
    assert not settled.admits(partial("r1"))
    assert settled.admits(partial("r2"))
    assert settled.admits(partial("r1", session=BESIDE))


def test_an_epoch_that_is_over_has_no_more_partials() -> None:
    settled = Settled()
    assert settled.admits(partial("r1", epoch=3))
    assert not settled.admits(partial("r2", epoch=2))
    settled.note(item(final_event(1, 0, 1, epoch=4)))
    assert not settled.admits(partial("r2", epoch=3))
    settled.note(item(rewound_event(2, 1, 0, epoch=5)))
    assert not settled.admits(partial("r2", epoch=4))
    assert settled.admits(partial("r2", epoch=5))


def test_events_that_know_no_epoch_change_nothing() -> None:
    settled = Settled()
    assert settled.admits(partial("r1", epoch=3))
    settled.note(item(life_event(1, 0)))
    assert not settled.admits(partial("r1", epoch=2))


def test_what_is_remembered_is_bounded() -> None:
    settled = Settled()
    for n in range(RESULTS_MAX + 1):
        settled.note(item(final_event(n + 1, n, n)))
    assert settled.admits(partial("r0"))
    assert not settled.admits(partial("r1"))
    for n in range(SESSIONS_MAX):
        settled.admits(partial("r", session=f"s{n}"))
    assert len(settled._sessions) == SESSIONS_MAX
    assert settled.admits(partial("r1"))
