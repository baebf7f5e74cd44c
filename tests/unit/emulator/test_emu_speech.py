from __future__ import annotations

import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from loadtest.emulator.parameters import SAMPLE_RATE
from loadtest.emulator.speech import BLOCK, CUT_AT, CUT_FROM, Hearing, Utterance

Told = tuple[int, int, tuple[tuple[int, int, int, bool], ...]]


def noise(seconds: float, seed: int, loudness: int = 3000) -> NDArray[np.int16]:
    generator = np.random.default_rng(seed)
    return generator.integers(-loudness, loudness, round(seconds * SAMPLE_RATE)).astype(np.int16)


def silence(seconds: float) -> NDArray[np.int16]:
    return np.zeros(round(seconds * SAMPLE_RATE), np.int16)


def join(*parts: NDArray[np.int16]) -> bytes:
    return np.concatenate(parts).tobytes()


SPEECH = join(
    silence(0.73),
    noise(1.234, 1),
    silence(0.3),
    noise(0.77, 2),
    silence(1.01),
    noise(0.05, 3),
    silence(0.7),
    noise(2.5, 4),
    silence(0.9),
)


def told_of(utterance: Utterance) -> Told:
    words = tuple(
        (word.start, min(word.end, utterance.end), word.key, word.comma) for word in utterance.words
    )
    return utterance.start, utterance.end, words


def hear(pcm: bytes, sizes: list[int] | None = None) -> list[tuple[bool, Told]]:
    """All that is told when ``pcm`` is fed in pieces of so many samples, over and over."""
    told: list[tuple[bool, Told]] = []
    hearing = Hearing(lambda utterance, *, final: told.append((final, told_of(utterance))))
    at, turn = 0, 0
    while at < len(pcm):
        size = 2 * (sizes[turn % len(sizes)] if sizes else BLOCK)
        hearing.feed(pcm[at : at + size])
        at, turn = at + size, turn + 1
    hearing.finish()
    return told


def finals(pcm: bytes) -> list[Told]:
    return [what for final, what in hear(pcm) if final]


def moved(told: list[Told], by: int) -> list[Told]:
    return [
        (start + by, end + by, tuple((a + by, b + by, key, comma) for a, b, key, comma in words))
        for start, end, words in told
    ]


@given(st.lists(st.integers(1, 16_000), min_size=1, max_size=30))
def test_how_the_audio_is_cut_does_not_matter(sizes: list[int]) -> None:
    assert hear(SPEECH, sizes) == hear(SPEECH)


@given(st.integers(0, 10**6), st.lists(st.integers(1, 16_000), min_size=1, max_size=10))
@settings(max_examples=30)
def test_nor_for_any_other_audio(seed: int, sizes: list[int]) -> None:
    generator = np.random.default_rng(seed)
    loudness = generator.choice([0, 0, 100, 300, 420, 440, 2000], 40)
    pcm = join(
        *(
            noise(float(generator.uniform(0.02, 0.6)), seed + n, max(1, int(x)))
            for n, x in enumerate(loudness)
        )
    )
    assert hear(pcm, sizes) == hear(pcm)


def test_where_there_is_silence_a_stream_may_begin() -> None:
    whole = finals(SPEECH)
    assert len(whole) == 3
    for before, after in ((0, 0), (1, 1), (2, 2)):
        end_of_last = whole[before - 1][1] if before else 0
        begin = whole[after][0]
        for start in {end_of_last, end_of_last + 7, (end_of_last + begin) // 2, begin - 1, begin}:
            assert moved(finals(SPEECH[2 * start :]), start) == whole[after:]


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_a_stream_may_begin_where_an_utterance_has_ended(seed: int) -> None:
    generator = np.random.default_rng(seed)
    parts = [
        noise(float(generator.uniform(0.1, 4)), seed + n, int(generator.choice([5, 400, 3000])))
        for n in range(12)
    ]
    pcm = join(*parts)
    whole = finals(pcm)
    for number, (_, end, _) in enumerate(whole):
        assert moved(finals(pcm[2 * end :]), end) == whole[number + 1 :]


def test_the_sample_is_heard_the_same_from_any_utterances_end() -> None:
    with wave.open(str(Path(__file__).parents[2] / "data" / "consultation.wav")) as file:
        pcm = file.readframes(file.getnframes())
    whole = finals(pcm)
    assert 15 < len(whole) < 60
    for number in range(0, len(whole), 5):
        end = whole[number][1]
        assert moved(finals(pcm[2 * end :]), end) == whole[number + 1 :]


def test_an_utterance_begins_and_ends_with_its_sound() -> None:
    start, end, words = finals(join(silence(1), noise(1, 1), silence(1)))[0]
    assert SAMPLE_RATE - BLOCK <= start <= SAMPLE_RATE
    assert 2 * SAMPLE_RATE <= end <= 2 * SAMPLE_RATE + BLOCK
    assert words[0][0] == start
    assert all(before[1] <= after[0] for before, after in pairwise(words))


def test_without_a_pause_an_utterance_is_cut_at_the_latest_after_10_seconds() -> None:
    told = finals(join(silence(0.5), noise(25, 5), silence(1)))
    assert len(told) == 3
    assert told[0][1] - told[0][0] == CUT_AT * BLOCK
    assert told[1][0] == told[0][1]


def test_it_is_cut_earlier_where_it_is_much_quieter() -> None:
    told = finals(join(noise(9, 5), noise(0.3, 6, 1200), noise(6, 7), silence(1)))
    assert told[0][1] == CUT_FROM * BLOCK + BLOCK * 10
    assert len(told) == 2


def test_partials_come_about_five_times_a_second_and_grow() -> None:
    told = hear(join(noise(4, 5), silence(1)))
    partials = [what for final, what in told if not final]
    assert len(partials) == 20
    for before, after in pairwise(partials):
        assert after[1] > before[1]
        assert [word[2] for word in after[2]][: len(before[2])] == [word[2] for word in before[2]]


@pytest.mark.parametrize("pcm", [b"", join(silence(5)), join(noise(5, 1, 200))])
def test_nothing_is_heard_in_silence(pcm: bytes) -> None:
    assert hear(pcm) == []


def test_the_end_of_the_stream_ends_the_utterance() -> None:
    pcm = join(silence(0.2), noise(0.55, 1))
    ((start, end, _),) = finals(pcm)
    assert end * 2 == len(pcm)
    assert start < end


def test_one_sample_more_or_less_gives_other_words() -> None:
    pcm = join(silence(0.2), noise(2, 1), silence(1))
    other = bytearray(pcm)
    other[2 * SAMPLE_RATE] ^= 1
    assert finals(bytes(other)) != finals(pcm)
