from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.sessions.deps import SessionLimits, rfc3339, unix_time
from app.sessions.drain import RELEASE_SECONDS
from app.sessions.hold import CONFIRMED_SHARE
from app.sessions.roll import SUSPECT_SHARE, beat_seconds
from audio.pcm import seconds_of
from audio.ring import RING_SAMPLES
from tests.support.archives import CREATED_AT, CREATED_UNIX


def test_times_are_written_in_utc_to_the_millisecond() -> None:
    assert rfc3339(CREATED_UNIX) == CREATED_AT
    assert rfc3339(0.0015) == "1970-01-01T00:00:00.002Z" or rfc3339(0.0015) == "1970-01-01T00:00:00.001Z"


@given(st.integers(0, 4_000_000_000_000))
def test_times_are_read_back(milliseconds: int) -> None:
    assert unix_time(rfc3339(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=0.0011)


def test_any_offset_is_understood_and_nonsense_is_not() -> None:
    assert unix_time("2026-11-20T18:00:00+09:00") == CREATED_UNIX
    with pytest.raises(ValueError, match="isoformat"):
        unix_time("yesterday")


def test_the_limits_fit_together() -> None:
    limits = SessionLimits()
    assert limits.segment_seconds < seconds_of(RING_SAMPLES) / 2
    assert limits.release_seconds < RELEASE_SECONDS
    assert limits.drain_seconds + RELEASE_SECONDS < 120
    assert limits.resume_window_seconds < limits.created_seconds < limits.reopen_seconds


@given(st.floats(1, 86_400))
def test_a_living_task_is_told_from_a_dead_one_in_time(window: float) -> None:
    every = beat_seconds(window)
    assert 2 * every <= SUSPECT_SHARE * window
    assert every < CONFIRMED_SHARE * window < window
