from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from audio.breaker import Attempt, BreakerLimits, BreakerState, CircuitBreaker

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


def breaker_of(seed: int = 1, limits: BreakerLimits | None = None) -> CircuitBreaker:
    return CircuitBreaker(Random(seed), limits)  # noqa: S311 - jitter


def begun(breaker: CircuitBreaker, now: float) -> Attempt:
    attempt = breaker.begin(now)
    assert attempt is not None
    return attempt


def broken(breaker: CircuitBreaker, now: float = 0.0) -> float:
    """Open it; gives when it may be probed."""
    for _ in range(5):
        begun(breaker, now).failed(now)
    assert breaker.state(now) is OPEN
    return now + breaker.wait(now)


def test_five_failures_in_a_row_open_it_and_four_do_not() -> None:
    breaker = breaker_of()
    for now in range(4):
        begun(breaker, now).failed(now)
        assert breaker.state(now) is CLOSED
    begun(breaker, 4.0).failed(4.0)
    assert breaker.state(4.0) is OPEN
    assert breaker.begin(4.0) is None


def test_failures_that_are_far_apart_do_not_add_up() -> None:
    breaker = breaker_of()
    for number in range(50):
        begun(breaker, number * 15.1).failed(number * 15.1)
    assert breaker.state(800.0) is CLOSED


def test_a_stream_that_dies_before_ten_seconds_is_a_failure_and_one_that_dies_after_them_is_a_success() -> (
    None
):
    breaker = breaker_of()
    for number in range(4):
        begun(breaker, float(number)).failed(float(number))
    old = begun(breaker, 4.0)
    old.opened(4.0)
    old.failed(14.0)
    for number in range(4):
        begun(breaker, 15.0 + number).failed(15.0 + number)
    assert breaker.state(19.0) is CLOSED
    young = begun(breaker, 19.0)
    young.opened(19.0)
    young.failed(28.9)
    assert breaker.state(28.9) is OPEN


def test_a_stream_that_lives_counts_without_anybody_reporting_it() -> None:
    breaker = breaker_of()
    living = begun(breaker, 0.0)
    living.opened(0.0)
    for number in range(4):
        begun(breaker, 6.0 + number).failed(6.0 + number)
    begun(breaker, 10.1).failed(10.1)
    assert breaker.state(10.1) is CLOSED


@pytest.mark.parametrize("outcome", [lambda attempt, now: attempt.ended(now), lambda attempt, now: None])
def test_a_stream_that_we_ended_early_tells_nothing(outcome: Callable[[Attempt, float], None]) -> None:
    breaker = breaker_of()
    for number in range(4):
        begun(breaker, float(number)).failed(float(number))
    neutral = begun(breaker, 4.0)
    neutral.opened(4.0)
    outcome(neutral, 5.0)
    begun(breaker, 6.0).failed(6.0)
    assert breaker.state(6.0) is OPEN


def test_what_is_said_twice_of_an_attempt_counts_once() -> None:
    breaker = breaker_of()
    attempt = begun(breaker, 0.0)
    for _ in range(9):
        attempt.failed(0.0)
    attempt.opened(0.0)
    assert breaker.state(0.0) is CLOSED


def test_after_the_cool_down_one_at_a_time_may_probe_and_ten_seconds_of_life_close_it() -> None:
    breaker = breaker_of()
    at = broken(breaker)
    assert not breaker.may_begin(at - 0.01)
    probe = begun(breaker, at)
    assert breaker.state(at) is HALF_OPEN
    assert breaker.begin(at) is None
    probe.opened(at + 1.0)
    assert breaker.begin(at + 10.9) is None
    assert breaker.wait(at + 3.0) == pytest.approx(8.0)
    assert breaker.state(at + 11.0) is CLOSED
    assert breaker.begin(at + 11.0) is not None
    assert breaker.begin(at + 11.0) is not None


def test_a_probe_that_was_given_up_leaves_its_turn_to_the_next() -> None:
    breaker = breaker_of()
    at = broken(breaker)
    begun(breaker, at).ended(at)
    assert breaker.state(at) is HALF_OPEN
    probe = begun(breaker, at)
    probe.opened(at)
    probe.ended(at + 1.0)
    assert breaker.state(at + 1.0) is HALF_OPEN
    assert breaker.begin(at + 1.0) is not None


@pytest.mark.parametrize("seed", range(20))
def test_the_cool_down_doubles_to_a_minute_is_jittered_and_begins_anew_after_a_success(seed: int) -> None:
    breaker = breaker_of(seed)
    now = broken(breaker)
    assert 2.5 <= now <= 5.0
    for bound in (10.0, 20.0, 40.0, 60.0, 60.0, 60.0):
        begun(breaker, now).failed(now)
        wait = breaker.wait(now)
        assert bound / 2 <= wait <= bound
        now += wait
    begun(breaker, now).opened(now)
    assert breaker.state(now + 10.0) is CLOSED
    assert broken(breaker, now + 10.0) - now <= 15.0


def test_two_tasks_do_not_probe_at_the_same_moment() -> None:
    assert len({broken(breaker_of(seed)) for seed in range(50)}) == 50


def test_what_becomes_of_streams_from_before_it_opened_does_not_matter() -> None:
    breaker = breaker_of()
    before = [begun(breaker, 0.0) for _ in range(3)]
    for attempt in before:
        attempt.opened(0.0)
    at = broken(breaker)
    before[0].failed(1.0)
    assert breaker.wait(1.0) == pytest.approx(at - 1.0)
    probe = begun(breaker, at)
    before[1].failed(at)
    assert breaker.state(at) is HALF_OPEN
    assert breaker.state(12.0) is HALF_OPEN  # the third one is ten seconds old by now
    probe.failed(12.0)
    assert breaker.state(12.0) is OPEN


class AgainstPromises(RuleBasedStateMachine):
    """Any course of events, against what a user of it relies on."""

    def __init__(self) -> None:
        super().__init__()
        self.limits = BreakerLimits(failures=3, window=30.0)
        self.breaker = breaker_of(7, self.limits)
        self.now = 0.0
        self.opened: dict[Attempt, float] = {}
        self.opening: list[Attempt] = []

    @property
    def attempts(self) -> list[Attempt]:
        return [*self.opening, *self.opened]

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0, 9.5, 10.0, 31.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.breaker.state(self.now)

    @rule()
    def begin(self) -> None:
        may = self.breaker.may_begin(self.now)
        assert may == (self.breaker.wait(self.now) == 0.0)
        attempt = self.breaker.begin(self.now)
        assert (attempt is not None) == may
        if attempt is not None:
            self.opening.append(attempt)

    @rule(data=st.data())
    @precondition(lambda self: self.opening)
    def open(self, data: st.DataObject) -> None:
        attempt = self.opening.pop(data.draw(st.integers(0, len(self.opening) - 1)))
        attempt.opened(self.now)
        self.opened[attempt] = self.now

    @rule(data=st.data(), failed=st.booleans())
    @precondition(lambda self: self.attempts)
    def finish(self, data: st.DataObject, failed: bool) -> None:
        before = self.breaker.state(self.now)
        attempt = data.draw(st.sampled_from(self.attempts))
        mature = self.now - self.opened.get(attempt, self.now) >= self.limits.healthy
        (attempt.failed if failed else attempt.ended)(self.now)
        self.opening = [one for one in self.opening if one is not attempt]
        self.opened.pop(attempt, None)
        after = self.breaker.state(self.now)
        if not failed or mature:
            assert after is before
        elif after is not before:
            assert after is OPEN
            assert self.breaker.wait(self.now) <= self.limits.longest

    @invariant()
    def a_breaker_that_is_not_closed_lets_at_most_one_through(self) -> None:
        if self.breaker.state(self.now) is HALF_OPEN and self.breaker.wait(self.now) == 0.0:
            probe = self.breaker.begin(self.now)
            assert probe is not None
            assert self.breaker.begin(self.now) is None
            probe.ended(self.now)

    @invariant()
    def waiting_as_long_as_it_says_is_enough_when_nothing_else_happens(self) -> None:
        assert 0.0 <= self.breaker.wait(self.now) <= self.limits.longest
        if self.breaker.state(self.now) is OPEN:
            assert self.breaker.may_begin(self.now + self.breaker.wait(self.now) + 1e-9)


TestAgainstPromises = AgainstPromises.TestCase
TestAgainstPromises.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
