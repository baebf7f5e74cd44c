from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from app.archive.tasks import TaskRecord, name_of
from app.sessions.roll import Roll, Standing, beat_seconds
from tenants.clinic import ClinicId
from tenants.terms import SessionRef
from tests.support.archives import REF

WINDOW = 120.0
OTHER = SessionRef(ClinicId("north"), "01890a5d-ac96-774b-bcce-b302099a8058")
EVERY = beat_seconds(WINDOW)


def record(beat: int, *refs: SessionRef, watched: tuple[SessionRef, ...] = ()) -> TaskRecord:
    return TaskRecord("b", beat, [name_of(ref) for ref in refs], [name_of(ref) for ref in watched])


def looks(roll: Roll, times: int, found: Callable[[int], dict[str, TaskRecord]], start: float = 0.0) -> float:
    """Look so many times, a beat apart; the time of the last."""
    now = start
    for number in range(times):
        now += EVERY
        roll.look(now, found(number))
    return now


def test_who_is_seen_to_change_lives() -> None:
    roll = Roll(WINDOW)
    assert roll.standing(REF) is None
    roll.look(0, {"b": record(1, REF)})
    assert roll.standing(REF) is Standing.UNSURE
    roll.look(EVERY, {"b": record(2, REF)})
    assert roll.standing(REF) is Standing.ALIVE
    assert roll.standing(OTHER) is None
    assert roll.suspects() == {}
    assert roll.dead() == {}


def test_who_appears_while_one_looks_lives() -> None:
    roll = Roll(WINDOW)
    roll.look(0, {})
    roll.look(EVERY, {"b": record(1, REF)})
    assert roll.standing(REF) is Standing.ALIVE


def test_who_is_silent_is_suspected_then_dead_and_alive_again_with_a_change() -> None:
    roll = Roll(WINDOW)
    roll.look(0, {})
    roll.look(1, {"b": record(1, REF, watched=(OTHER,))})
    now = looks(roll, 2, lambda _: {"b": record(1, REF, watched=(OTHER,))}, 1)
    assert roll.standing(REF) is Standing.UNSURE
    assert roll.suspects() == {REF: 1, OTHER: 1}
    assert roll.patience(REF) == WINDOW - 2 * EVERY
    now = looks(roll, 5, lambda _: {"b": record(1, REF, watched=(OTHER,))}, now)
    assert roll.dead() == {}
    now = looks(roll, 1, lambda _: {"b": record(1, REF, watched=(OTHER,))}, now)
    assert roll.standing(REF) is Standing.DEAD
    assert roll.patience(REF) == 0
    assert roll.dead() == {"b": {REF: 1, OTHER: 1}}
    # Nobody is said to own what is only watched.
    assert roll.standing(OTHER) is None
    looks(roll, 1, lambda _: {"b": record(2, REF)}, now)
    assert roll.standing(REF) is Standing.ALIVE
    assert (roll.suspects(), roll.dead()) == ({}, {})


def test_one_that_stood_still_itself_has_not_seen_the_others_stand_still() -> None:
    roll = Roll(WINDOW)
    roll.look(0, {"b": record(1, REF)})
    roll.look(10_000, {"b": record(1, REF)})
    assert roll.standing(REF) is Standing.UNSURE
    assert roll.dead() == {}


def test_of_several_who_have_a_session_the_liveliest_counts() -> None:
    roll = Roll(WINDOW)
    looks(roll, 20, lambda n: {"a": record(1, REF), "b": record(n, REF), "c": record(2, REF)})
    assert roll.standing(REF) is Standing.ALIVE
    assert set(roll.dead()) == {"a", "c"}
    roll.forget("a")
    assert set(roll.dead()) == {"c"}
    roll.forget("b")
    assert roll.standing(REF) is None


def test_names_that_are_none_are_passed_over() -> None:
    roll = Roll(WINDOW)
    for now in (0.0, EVERY):
        roll.look(now, {"b": TaskRecord("b", int(now), ["", "north/../x", name_of(REF)], ["x"])})
    assert roll.standing(REF) is Standing.ALIVE


@given(st.floats(1, 10_000), st.lists(st.floats(0.01, 100_000), max_size=60))
def test_nobody_is_dead_before_a_whole_window_was_watched(window: float, steps: list[float]) -> None:
    roll, now, watched = Roll(window), 0.0, 0.0
    roll.look(now, {"b": record(1, REF)})
    for step in steps:
        now += step
        watched += min(step, 2 * beat_seconds(window))
        roll.look(now, {"b": record(1, REF)})
        assert (roll.standing(REF) is Standing.DEAD) == (watched >= window)
        assert now >= window or not roll.dead()
