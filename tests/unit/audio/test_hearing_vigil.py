from __future__ import annotations

import pytest

from audio.hearing_vigil import Patience, Vigil
from audio.loudness import Loudness
from audio.pcm import SAMPLE_RATE

PIECE = SAMPLE_RATE // 5


class Sent:
    """Pieces of 0.2 s, sent as they are spoken."""

    def __init__(self) -> None:
        self.vigil = Vigil()
        self.position = 0

    @property
    def now(self) -> float:
        return self.position / SAMPLE_RATE

    def send(self, how: Loudness, seconds: float) -> None:
        for _ in range(round(seconds * 5)):
            self.vigil.sent(self.position, self.position + PIECE, how, self.now)
            self.position += PIECE


def test_speech_without_an_answer_is_a_mute_stream() -> None:
    sent = Sent()
    sent.send(Loudness.QUIET, 60)
    sent.send(Loudness.LOUD, 5)
    assert not sent.vigil.mute(sent.now, 5.0)
    sent.send(Loudness.LOUD, 0.4)
    assert sent.vigil.mute(sent.now, 5.0)
    assert not sent.vigil.mute(sent.now, 10.0)


def test_people_pause_when_they_speak() -> None:
    sent = Sent()
    for _ in range(3):
        sent.send(Loudness.LOUD, 1)
        sent.send(Loudness.QUIET, 0.8)
    assert sent.vigil.mute(sent.now, 5.0)


def test_a_knock_is_no_speech() -> None:
    sent = Sent()
    sent.send(Loudness.LOUD, 0.4)
    sent.send(Loudness.QUIET, 60)
    assert not sent.vigil.mute(sent.now, 5.0)


def test_faint_sound_may_be_unanswered() -> None:
    sent = Sent()
    sent.send(Loudness.FAINT, 60)
    assert not sent.vigil.mute(sent.now, 5.0)


def test_an_answer_starts_the_time_anew() -> None:
    sent = Sent()
    sent.send(Loudness.LOUD, 4)
    sent.vigil.heard()
    sent.send(Loudness.LOUD, 4)
    assert not sent.vigil.mute(sent.now, 5.0)


def test_a_fast_speaker_has_to_wait_as_long() -> None:
    vigil = Vigil()
    vigil.sent(0, 10 * SAMPLE_RATE, Loudness.LOUD, 1.0)
    assert not vigil.mute(5.9, 5.0)
    assert vigil.mute(6.1, 5.0)


def test_a_long_quiet_holds_no_speech_but_perhaps_in_its_last_two_seconds() -> None:
    sent = Sent()
    sent.send(Loudness.LOUD, 2)
    sent.send(Loudness.QUIET, 2.8)
    assert sent.vigil.without_speech(sent.position, 2 * SAMPLE_RATE) is None
    sent.send(Loudness.QUIET, 0.2)
    assert sent.vigil.without_speech(sent.position, 2 * SAMPLE_RATE) == 3 * SAMPLE_RATE


@pytest.mark.parametrize("how", [Loudness.LOUD, Loudness.FAINT])
def test_what_was_not_reported_may_still_be_however_long_it_is_quiet(how: Loudness) -> None:
    sent = Sent()
    sent.send(how, 2)
    sent.send(Loudness.QUIET, 60)
    assert sent.vigil.without_speech(sent.position, SAMPLE_RATE) is None
    assert sent.vigil.without_speech(sent.position, 2 * SAMPLE_RATE - PIECE) is not None


def test_quiet_is_counted_from_where_it_began_last() -> None:
    sent = Sent()
    sent.send(Loudness.QUIET, 2)
    sent.send(Loudness.FAINT, 0.2)
    sent.send(Loudness.QUIET, 2)
    assert sent.vigil.without_speech(sent.position, sent.position) is None


def test_patience_doubles_from_the_second_alarm_on_and_a_result_restores_it() -> None:
    patience = Patience(5.0)
    seen = []
    for _ in range(7):
        seen.append(patience.seconds)
        patience.ran_out()
    assert seen == [5.0, 5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    patience.rewarded()
    assert patience.seconds == 5.0


def test_patience_may_be_endless_or_long_from_the_first() -> None:
    endless, long = Patience(None), Patience(90.0)
    for _ in range(5):
        endless.ran_out()
        long.ran_out()
    assert (endless.seconds, long.seconds) == (None, 90.0)
