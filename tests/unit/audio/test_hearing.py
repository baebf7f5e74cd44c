from __future__ import annotations

from audio.engine import Settled, StreamResult, StreamWord
from audio.hearing import Hearing
from audio.transcript import Final, Partial


class Sink:
    def __init__(self) -> None:
        self.partials: list[Partial] = []
        self.finals: list[Final] = []
        self.gaps: list[tuple[int | None, int | None]] = []

    def on_partial(self, partial: Partial) -> None:
        self.partials.append(partial)

    def on_final(self, final: Final) -> None:
        self.finals.append(final)

    def on_notice(self, code: str, message: str, start: int | None, end: int | None) -> None:
        assert code == "transcript_gap"
        self.gaps.append((start, end))


def hearing(language: str = "en-US", *, transcribes: bool = True, settled: int = 0) -> tuple[Hearing, Sink]:
    sink = Sink()
    heard = Hearing(sink, language=language, next_ordinal=1, settled=settled, transcribes=transcribes)
    heard.begin(settled)
    return heard, sink


def result(name: str, *words: tuple[str, int, int], final: bool = True) -> StreamResult:
    timed = tuple(StreamWord(text, start, end, 0.5) for text, start, end in words)
    return StreamResult(name, words[0][1], words[-1][2], " ".join(word[0] for word in words), final, timed)


def test_a_final_that_was_heard_before_is_dropped_and_gives_its_id_to_what_is_new() -> None:
    heard, sink = hearing()
    heard.fed(0, 1000)
    heard.take(result("a", ("one", 0, 400)))
    heard.take(result("b", ("two", 500, 800), final=False))
    heard.begin(0)
    heard.fed(0, 1000)
    heard.take(result("x", ("one", 0, 400), final=False))
    heard.take(result("x", ("one", 0, 400)))
    heard.take(result("y", ("two", 500, 900)))
    assert [(final.id, final.text) for final in sink.finals] == [("u1", "one"), ("u2", "two")]
    assert [partial.id for partial in sink.partials] == ["u2"]


def test_a_final_that_overlaps_what_is_settled_keeps_its_later_words() -> None:
    heard, sink = hearing()
    heard.fed(0, 1000)
    heard.take(result("a", ("one", 0, 400)))
    heard.take(result("b", ("one", 300, 399), ("and", 401, 500), ("two", 500, 600)))
    assert (sink.finals[1].text, sink.finals[1].start, sink.finals[1].end) == ("and two", 401, 600)
    assert [word.text for word in sink.finals[1].words] == ["and", "two"]


def test_a_final_none_of_whose_words_is_later_is_no_final_but_settles() -> None:
    heard, sink = hearing()
    heard.fed(0, 1000)
    heard.take(Settled(350))
    heard.take(result("a", ("one", 0, 400)))
    assert sink.finals == []
    assert heard.settled == 400


def test_languages_without_spaces_are_joined_without() -> None:
    heard, sink = hearing("ja-JP")
    heard.fed(0, 1000)
    heard.take(Settled(100))
    heard.take(result("a", ("頭", 0, 90), ("が", 100, 150), ("痛い", 150, 300)))
    assert sink.finals[0].text == "が痛い"


def test_a_partial_is_not_shown_for_what_is_settled() -> None:
    heard, sink = hearing()
    heard.fed(0, 1000)
    heard.take(Settled(500))
    heard.take(StreamResult("a", 100, 450, "old", False))
    heard.take(StreamResult("b", 400, 700, "new", False))
    assert [(partial.start, partial.end, partial.text) for partial in sink.partials] == [(500, 700, "new")]


def test_live_is_what_was_fed_and_is_settled_without_what_was_skipped() -> None:
    heard, sink = hearing()
    heard.fed(0, 1000)
    heard.skip(1000, 3000)
    heard.fed(3000, 1000)
    assert list(heard.live) == []
    heard.take(Settled(400))
    assert list(heard.live) == [(0, 400)]
    heard.take(Settled(1500))
    assert list(heard.live) == [(0, 1000), (3000, 3500)]
    assert heard.settled == 3500
    assert sink.gaps == [(1000, 3000)]


def test_what_a_dead_stream_left_unsettled_is_not_live() -> None:
    heard, _ = hearing()
    heard.fed(0, 1000)
    heard.take(Settled(400))
    heard.begin(2000)
    heard.fed(2000, 500)
    heard.take(Settled(500))
    assert list(heard.live) == [(0, 400), (2000, 2500)]


def test_a_gap_is_told_once() -> None:
    heard, sink = hearing()
    heard.skip(100, 200)
    heard.skip(100, 300)
    assert sink.gaps == [(100, 200), (200, 300)]


def test_settled_never_goes_back() -> None:
    heard, _ = hearing(settled=5000)
    heard.fed(5000, 1000)
    heard.take(Settled(500))
    heard.take(Settled(100))
    assert heard.settled == 5500


def test_an_engine_that_does_not_transcribe_settles_and_misses_nothing() -> None:
    heard, sink = hearing(transcribes=False)
    heard.fed(0, 1000)
    heard.settle(1000)
    heard.skip(1000, 2000)
    assert heard.settled == 0
    assert list(heard.live) == []
    assert sink.gaps == []


def test_what_was_reported_and_whether_more_of_it_will_come_is_known_of_the_present_stream() -> None:
    heard, _ = hearing(settled=100)
    heard.fed(100, 1000)
    assert (heard.reported, heard.speaking) == (100, False)
    heard.take(result("a", ("one", 0, 400), final=False))
    assert (heard.reported, heard.speaking) == (500, True)
    heard.take(result("a", ("one", 0, 380)))
    assert (heard.reported, heard.speaking) == (500, False)
    heard.take(Settled(600))
    assert heard.reported == 700
    heard.begin(480)
    assert (heard.reported, heard.speaking) == (480, False)
