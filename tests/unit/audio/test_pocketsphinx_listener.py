from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.engines.pocketsphinx_decoder import Spoken
from audio.engines.pocketsphinx_listener import (
    PRIMING_SAMPLES,
    UTTERANCE_SAMPLES_MAX,
    Listener,
    cut_of,
)
from audio.engines.pocketsphinx_wire import Answered, Ended, Heard, Message, Quiet, Result
from audio.pcm import SAMPLE_RATE, bytes_of, samples_of

WORD = SAMPLE_RATE // 2


def voiced(seconds: float) -> bytes:
    """A buzz that the endpointer takes for speech."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    buzz = sum(np.sin(2 * np.pi * 120 * harmonic * time) / harmonic for harmonic in range(1, 30))
    return bytes((np.asarray(buzz) * 4000).astype(np.int16).tobytes())


def silent(seconds: float) -> bytes:
    return bytes(bytes_of(int(seconds * SAMPLE_RATE)))


class CountingRecogniser:
    """Hears a word in each half second, named after the place in the audio that its first sample tells."""

    def __init__(self) -> None:
        self.pcm = b""
        self.busy = False
        self.first: list[int] = []

    def start(self, pcm: bytes) -> None:
        assert not self.busy
        self.busy = True
        self.pcm = pcm
        self.first.append(samples_of(len(pcm)))

    def hear(self, pcm: bytes) -> None:
        assert self.busy
        self.pcm += pcm

    def hypothesis(self) -> str:
        return " ".join(["word"] * (samples_of(len(self.pcm)) // WORD))

    def finish(self) -> list[Spoken]:
        assert self.busy
        self.busy = False
        count = samples_of(len(self.pcm)) // WORD
        return [Spoken(f"n{at}", at * WORD, (at + 1) * WORD, 0.5) for at in range(count)]


def listen(pcm: bytes, frame: int = 3200) -> tuple[list[Message], CountingRecogniser]:
    messages: list[Message] = []
    recogniser = CountingRecogniser()
    listener = Listener(recogniser, messages.append)
    listener.begin()
    for at in range(0, len(pcm), frame):
        listener.hear(pcm[at : at + frame])
    listener.end()
    return messages, recogniser


def finals_of(messages: list[Message]) -> list[Result]:
    return [message for message in messages if isinstance(message, Result) and message.final]


def test_speech_between_silences_is_one_final_at_its_place() -> None:
    messages, recogniser = listen(silent(2) + voiced(3) + silent(2))
    (final,) = finals_of(messages)
    assert final.start == pytest.approx(2 * SAMPLE_RATE, abs=0.4 * SAMPLE_RATE)
    assert final.end == pytest.approx(5 * SAMPLE_RATE, abs=0.6 * SAMPLE_RATE)
    assert final.words[0][1] == final.start
    assert final.words[-1][2] == final.end
    assert recogniser.first == [pytest.approx(PRIMING_SAMPLES, abs=480)]


def test_what_is_heard_is_the_same_in_frames_of_any_size() -> None:
    pcm = silent(1) + voiced(2) + silent(1) + voiced(1) + silent(0.5)
    usual = finals_of(listen(pcm)[0])
    assert len(usual) == 2
    assert [finals_of(listen(pcm, frame)[0]) for frame in (2, 960, 65_536)] == [usual] * 3


def test_partials_come_at_most_four_times_a_second_and_only_when_they_change() -> None:
    messages, _ = listen(silent(1) + voiced(8) + silent(1))
    partials = [message for message in messages if isinstance(message, Result) and not message.final]
    texts = [partial.text for partial in partials]
    assert 10 <= len(texts) <= 16
    assert len(set(texts)) == len(texts)
    assert {partial.id for partial in partials} == {"s1"}


def test_silence_is_reported_at_least_each_second() -> None:
    messages, _ = listen(silent(10))
    settled = [message.position for message in messages if isinstance(message, Quiet)]
    assert settled == sorted(settled)
    assert max(after - before for before, after in pairwise([0, *settled])) <= SAMPLE_RATE
    assert settled[-1] == 10 * SAMPLE_RATE
    assert isinstance(messages[-1], Ended)


def test_all_that_was_sent_is_reported_heard_at_once() -> None:
    messages, _ = listen(silent(1), frame=2000)
    heard = [message.position for message in messages if isinstance(message, Heard)]
    assert heard == [*range(1000, SAMPLE_RATE + 1, 1000)]


def test_speech_without_a_pause_is_made_final_in_time_and_no_word_is_lost_doubled_or_cut() -> None:
    messages, _ = listen(silent(1) + voiced(35) + silent(1))
    finals = finals_of(messages)
    assert len(finals) >= 4
    assert all(final.end - final.start <= UTTERANCE_SAMPLES_MAX for final in finals)
    words = [word for final in finals for word in final.words]
    assert [after[1] - before[2] for before, after in pairwise(words)] == [0] * (len(words) - 1)
    assert all(end - start == WORD for _, start, end, _ in words)
    assert len(words) == pytest.approx(70, abs=2)
    assert len({final.id for final in finals}) == len(finals)


def test_a_flush_makes_final_what_was_heard_and_the_stream_goes_on() -> None:
    messages: list[Message] = []
    listener = Listener(CountingRecogniser(), messages.append)
    listener.begin()
    listener.hear(silent(1) + voiced(2))
    listener.flush()
    assert isinstance(messages[-1], Answered)
    assert messages[-2] == Quiet(3 * SAMPLE_RATE)
    assert len(finals_of(messages)) == 1
    listener.hear(voiced(2) + silent(1))
    second = finals_of(messages)[1]
    assert second.start >= 3 * SAMPLE_RATE


def test_a_new_stream_begins_at_zero_and_knows_nothing_of_the_one_before() -> None:
    messages: list[Message] = []
    listener = Listener(CountingRecogniser(), messages.append)
    for _ in range(2):
        listener.begin()
        messages.clear()
        listener.hear(silent(1) + voiced(0.7))
        listener.hear(voiced(3))
        assert messages[-1] == Heard(samples_of(len(silent(1) + voiced(0.7) + voiced(3))))
    listener.end()
    (final,) = finals_of(messages)
    assert final.id == "s1"


def test_speech_without_words_gives_no_final_but_is_settled() -> None:
    class Deaf(CountingRecogniser):
        def finish(self) -> list[Spoken]:
            super().finish()
            return []

    messages: list[Message] = []
    listener = Listener(Deaf(), messages.append)
    listener.begin()
    listener.hear(silent(1) + voiced(12) + silent(1))
    assert finals_of(messages) == []
    settled = [message.position for message in messages if isinstance(message, Quiet)]
    assert settled[-1] > 12.5 * SAMPLE_RATE
    assert max(after - before for before, after in pairwise(settled)) < 10 * SAMPLE_RATE


@st.composite
def spoken(draw: st.DrawFn) -> list[Spoken]:
    at = 0
    words = []
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 9000), st.integers(160, 60_000)), max_size=40)):
        if at + gap + length > UTTERANCE_SAMPLES_MAX:
            break
        words.append(Spoken("w", at + gap, at + gap + length, 1.0))
        at += gap + length
    return words


@given(spoken())
def test_a_cut_is_within_no_word_and_leaves_less_than_half_to_hear_again_but_for_one_long_word(
    words: list[Spoken],
) -> None:
    cut = cut_of(words, UTTERANCE_SAMPLES_MAX)
    assert 0 < cut <= UTTERANCE_SAMPLES_MAX
    assert not any(word.start < cut < word.end for word in words)
    assert cut > UTTERANCE_SAMPLES_MAX // 2 or cut == words[-1].end


def test_a_cut_prefers_a_pause_near_the_end() -> None:
    words = [Spoken("w", at * 8000, at * 8000 + 8000, 1.0) for at in range(18)]
    assert cut_of(words, UTTERANCE_SAMPLES_MAX) == words[16].start
    words[15] = words[15]._replace(end=words[15].end - 4000)
    assert cut_of(words, UTTERANCE_SAMPLES_MAX) == words[15].end + 2000
