from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.http.subtitles import cues, plain_text, srt, vtt
from app.protocol.rest import FinalView, TranscriptView, WordView

SECOND = 16_000


def final(text: str, start: float, end: float, words: bool = True, seq: int = 1) -> FinalView:
    first, last = int(start * SECOND), int(end * SECOND)
    tokens = text.split()
    step = (last - first) // max(1, len(tokens))
    views = [
        WordView(token, first + index * step, first + (index + 1) * step, 0.9)
        for index, token in enumerate(tokens)
    ]
    return FinalView(seq, f"f{seq}", first, last, text, views if words else [], "en-US")


def transcript(*finals: FinalView) -> TranscriptView:
    return TranscriptView("s", "en-US", "completed", 0, list(finals))


TWO = transcript(final("good morning", 1, 2.5), final("how are you", 3725.25, 3727, seq=2))
LONG = "the quick brown fox jumps over the lazy dog and then it does it again because it has nothing better to do today"


def test_plain_text_is_a_line_for_each_final() -> None:
    assert plain_text(TWO) == "[00:01] good morning\n[62:05] how are you\n"
    assert plain_text(transcript()) == ""


def test_plain_text_keeps_a_final_on_its_line() -> None:
    assert plain_text(transcript(final("a\n[00:00] b", 0, 1))) == "[00:00] a [00:00] b\n"


def test_subrip() -> None:
    assert srt(TWO) == (
        "1\n00:00:01,000 --> 00:00:02,500\ngood morning\n\n2\n01:02:05,250 --> 01:02:07,000\nhow are you\n"
    )
    assert srt(transcript()) == ""


def test_webvtt() -> None:
    assert vtt(TWO) == (
        "WEBVTT\n\n00:00:01.000 --> 00:00:02.500\ngood morning\n\n01:02:05.250 --> 01:02:07.000\nhow are you\n"
    )
    assert vtt(transcript()) == "WEBVTT\n"


def test_no_text_can_be_a_tag_or_an_arrow() -> None:
    hostile = transcript(final("<b>a & b</b> 00:01 --> 00:02", 0, 1))
    assert "&lt;b&gt;a &amp; b&lt;/b&gt; 00:01 --&gt; 00:02" in vtt(hostile)
    assert srt(hostile).count("-->") == 1


def test_a_long_final_is_split_between_words_at_their_times() -> None:
    spoken = final(LONG, 10, 34)
    found = list(cues([spoken]))
    assert len(found) == 2
    assert " ".join(line for cue in found for line in cue.lines) == LONG
    word = spoken.words[len(" ".join(found[0].lines).split())]
    assert found[1].start == word.start
    assert found[0].end == spoken.words[len(" ".join(found[0].lines).split()) - 1].end
    assert (found[0].start, found[1].end) == (spoken.start, spoken.words[-1].end)


def test_without_words_the_times_are_in_proportion() -> None:
    found = list(cues([final(LONG, 10, 34, words=False)]))
    assert len(found) == 2
    assert found[0].end == found[1].start
    assert 10 * SECOND < found[0].end < 34 * SECOND


def test_words_that_are_not_those_of_the_text_are_not_used() -> None:
    spoken = final(LONG, 10, 34)
    spoken = FinalView(1, "f", spoken.start, spoken.end, LONG, [WordView("elsewhere", 0, 1, 1.0)], "en-US")
    assert " ".join(line for cue in cues([spoken]) for line in cue.lines) == LONG


def test_a_script_without_spaces_is_split_too() -> None:
    text = "今日はどうされましたか少し熱があって喉が痛いです" * 8
    words = [WordView(character, index * 100, index * 100 + 100, 1.0) for index, character in enumerate(text)]
    found = list(cues([FinalView(1, "f", 0, len(text) * 100, text, words, "ja-JP")]))
    assert "".join(line for cue in found for line in cue.lines) == text
    assert [cue.start for cue in found] == [index * 84 * 100 for index in range(len(found))]


def test_silence_has_no_cue() -> None:
    assert list(cues([final("  ", 0, 1)])) == []


TIME = re.compile(r"(\d\d+):([0-5]\d):([0-5]\d),(\d{3}) --> (\d\d+):([0-5]\d):([0-5]\d),(\d{3})")


@pytest.mark.timeout(60)
@given(
    st.lists(st.text(st.sampled_from("ab é\n\t-->&<字 "), max_size=300), max_size=4),
    st.booleans(),
)
def test_any_transcript_gives_cues_in_order_that_fit(texts: list[str], words: bool) -> None:
    finals = [final(text, 10 * index, 10 * index + 9, words, index + 1) for index, text in enumerate(texts)]
    after = 0
    for cue in cues(finals):
        assert after <= cue.start < cue.end
        assert 1 <= len(cue.lines) <= 2
        assert all(0 < len(line) <= 42 for line in cue.lines)
        after = cue.end
    shown = "".join(line for cue in cues(finals) for line in cue.lines)
    assert "".join(shown.split()) == "".join("".join(texts).split())
    blocks = srt(transcript(*finals)).split("\n\n") if shown else []
    for number, block in enumerate(blocks, 1):
        lines = block.strip("\n").split("\n")
        assert lines[0] == str(number)
        assert TIME.fullmatch(lines[1])
        assert 1 <= len(lines[2:]) <= 2
