from __future__ import annotations

from random import Random

import pytest

from audio.engine import Throttled, Unavailable
from audio.pacing import Backoff, BackoffLimits, LagGuard
from audio.pcm import SAMPLE_RATE

DIED = Unavailable("x", "died")


def backoff_of(seed: int) -> Backoff:
    return Backoff(Random(seed), BackoffLimits(first=0.1, ceiling=5.0))  # noqa: S311 - jitter


def test_a_guard_lets_go_of_an_engine_a_second_behind_real_time() -> None:
    guard = LagGuard(allowed=1000)
    assert not guard.must_let_go(10.0, 1001, 0)
    assert not guard.must_let_go(11.0, 5000, 0)
    assert guard.must_let_go(11.1, 5000, 0)


def test_a_guard_keeps_an_engine_that_is_faster_than_real_time_however_far_it_lags() -> None:
    guard = LagGuard(allowed=1000)
    assert not any(
        guard.must_let_go(float(second), 200_000, second * SAMPLE_RATE * 11 // 10) for second in range(1000)
    )


def test_a_guard_begins_anew_when_the_lag_was_small_again_or_positions_jumped() -> None:
    guard = LagGuard(allowed=1000)
    guard.must_let_go(0.0, 1001, 50_000)
    guard.must_let_go(1.0, 1000, 50_000)
    assert not guard.must_let_go(2.0, 1001, 50_000)
    guard.forget()
    assert not guard.must_let_go(4.0, 1001, 0)
    assert guard.must_let_go(5.5, 1001, 0)


def test_delays_have_full_jitter_below_a_bound_that_doubles_up_to_a_ceiling() -> None:
    backoff = backoff_of(3)
    delays = [backoff.failed(float(second), DIED) for second in range(200)]
    bounds = [min(5.0, 0.1 * 2**attempt) for attempt in range(200)]
    assert all(0 <= delay <= bound for delay, bound in zip(delays, bounds, strict=True))
    assert max(delays) > 4.5
    assert min(delays[20:]) < 0.5


@pytest.mark.parametrize(("lasted", "recovered"), [(9.9, False), (10.0, True)])
def test_only_a_stream_that_lasted_counts_as_recovery(lasted: float, recovered: bool) -> None:
    backoff = backoff_of(1)
    for _ in range(10):
        backoff.failed(0.0, DIED)
    most = 0.0
    for second in range(0, 3000, 30):
        backoff.opened(float(second))
        most = max(most, backoff.failed(second + lasted, DIED))
    assert (most <= 0.1) is recovered


def test_a_throttling_engine_is_not_asked_before_it_allows() -> None:
    backoff = backoff_of(1)
    delays = [backoff.failed(0.0, Throttled("busy", "busy", 7.0)) for _ in range(20)]
    assert all(7.0 <= delay <= 12.0 for delay in delays)
    assert len(set(delays)) == len(delays)
