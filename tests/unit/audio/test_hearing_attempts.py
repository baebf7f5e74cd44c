from __future__ import annotations

from audio.engine import EngineError, Rejected, Throttled, Unavailable
from audio.hearing_attempts import Attempts
from audio.transcript import Final, Partial


class Sink:
    def __init__(self) -> None:
        self.notices: list[tuple[str, int | None]] = []

    def on_partial(self, partial: Partial) -> None:
        raise AssertionError

    def on_final(self, final: Final) -> None:
        raise AssertionError

    def on_notice(self, code: str, message: str, start: int | None, end: int | None) -> None:
        assert message
        self.notices.append((code, start))


class Story:
    """Attempts over time; each stream begins at position 100."""

    def __init__(self) -> None:
        self.sink = Sink()
        self.attempts = Attempts(self.sink, waiting=1.0, healthy=10.0)
        self.now = 0.0
        self.settled = 0

    def want(self, seconds: float = 0.0, *, room: bool = True) -> None:
        """Wait so long for a stream."""
        self.attempts.wanted(self.now, lambda: room)
        until = self.now + seconds
        while self.now < until:
            self.now += 0.5
            self.attempts.look(self.now)

    def stream(
        self, seconds: float, error: EngineError | None, *, reports: bool = False, settles: int = 0
    ) -> bool:
        """A stream that lasts so long; whether it was the last."""
        self.attempts.opened(self.now, 100, self.settled)
        if reports:
            self.attempts.serves()
        self.now += seconds
        self.settled += settles
        return self.attempts.ended(self.now, error, reported=reports, settled=self.settled)


AWAY = Unavailable("x", "died")
BUSY = Throttled("x", "busy")
NO = Rejected("x", "no")


def test_a_first_stream_without_room_is_told_at_once_and_once() -> None:
    story = Story()
    story.want(10, room=False)
    assert story.sink.notices == [("engine_waiting", None)]


def test_a_first_stream_that_takes_long_is_told() -> None:
    story = Story()
    story.want(1)
    assert story.sink.notices == []
    story.want(1)
    assert story.sink.notices == [("engine_waiting", None)]


def test_a_later_stream_is_told_only_when_it_takes_long() -> None:
    story = Story()
    story.want()
    story.stream(20, AWAY, reports=True)
    story.want(0.5, room=False)
    story.stream(20, AWAY, reports=True)
    assert story.sink.notices == [("engine_restarted", 100)]
    story.want(2, room=False)
    assert story.sink.notices[1:] == [("engine_waiting", None)]


def test_a_restart_is_told_when_the_new_stream_reports_or_lasts() -> None:
    story = Story()
    story.want()
    story.stream(5, AWAY)
    story.want()
    story.stream(0.2, AWAY, reports=True)
    story.want()
    story.stream(5, AWAY)
    assert story.sink.notices == [("engine_restarted", 100)] * 2


def test_streams_that_are_refused_as_soon_as_they_are_open_are_waiting_and_no_restarts() -> None:
    story = Story()
    story.want()
    story.stream(20, AWAY, reports=True)
    for _ in range(6):
        story.want(0.5)
        assert not story.stream(0.1, BUSY)
    story.want()
    story.stream(5, None, reports=True)
    assert story.sink.notices == [("engine_waiting", None), ("engine_restarted", 100)]


def test_a_session_that_is_refused_twice_is_refused() -> None:
    story = Story()
    story.want()
    assert not story.stream(0.1, NO)
    story.want()
    assert story.stream(0.1, NO)


def test_a_refusal_that_the_next_stream_is_spared_was_that_streams_own() -> None:
    story = Story()
    for _ in range(20):
        story.want()
        assert not story.stream(30, NO, reports=True)
    for _ in range(20):
        story.want()
        assert not story.stream(3, NO, reports=True, settles=1000)


def test_streams_that_are_refused_after_a_while_and_settle_nothing_are_refusals_of_the_session() -> None:
    story = Story()
    story.want()
    assert not story.stream(3, NO, reports=True)
    story.want()
    assert story.stream(3, NO, reports=True)


def test_other_errors_never_mean_the_session() -> None:
    story = Story()
    for _ in range(50):
        story.want()
        assert not story.stream(0.1, AWAY)
        assert not story.stream(0.1, BUSY)
