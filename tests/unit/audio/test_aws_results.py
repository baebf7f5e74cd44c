from __future__ import annotations

from typing import Any

from audio.engine import Settled, StreamResult, StreamWord
from audio.engines.aws_events import Alternative, Item, Result
from audio.engines.aws_results import ONSET_SAMPLES, Flushing, Results
from audio.pcm import SAMPLE_RATE

S = SAMPLE_RATE


def word(
    text: str, start: float, end: float, confidence: float | None = 0.9, speaker: str | None = None
) -> Item:
    return Item(text, "pronunciation", start, end, confidence, speaker)


def mark(text: str, at: float) -> Item:
    return Item(text, "punctuation", at, at)


def result(start: float, end: float, *items: Item, partial: bool = False, **more: Any) -> Result:
    text = more.pop("text", " ".join(item.content for item in items))
    name = more.pop("name", "a")
    return Result(name, start, end, partial, (Alternative(text, items),), **more)


def heard(*seconds: float) -> Results:
    """A stream that was sent audio and silence in turns."""
    results = Results()
    for count, length in enumerate(seconds):
        (results.silence if count % 2 else results.audio)(int(length * S))
    return results


def test_a_final_is_placed_and_settles_its_end() -> None:
    final = result(
        0.5, 1.5, word("good", 0.5, 0.9), word("day", 1.0, 1.5, speaker="1"), language_code="en-US"
    )
    assert heard(2).take([final]) == [
        StreamResult(
            "a",
            S // 2,
            3 * S // 2,
            "good day",
            True,
            (
                StreamWord("good", S // 2, round(0.9 * S), 0.9),
                StreamWord("day", S, 3 * S // 2, 0.9, "1"),
            ),
            "en-US",
        ),
        Settled(3 * S // 2),
    ]


def test_punctuation_stands_with_its_word() -> None:
    final = result(
        0, 1, word("yes", 0, 0.5), mark(",", 0.5), word("no", 0.5, 1), mark(".", 1), text="yes, no."
    )
    (event, _) = heard(2).take([final])
    assert isinstance(event, StreamResult)
    assert event.text == "yes, no."
    assert [word.text for word in event.words] == ["yes,", "no."]


def test_punctuation_without_a_word_is_only_in_the_text() -> None:
    (event, _) = heard(2).take([result(0, 1, mark("-", 0), word("no", 0.5, 1), text="- no")])
    assert isinstance(event, StreamResult)
    assert [word.text for word in event.words] == ["no"]


def test_no_confidence_is_no_doubt() -> None:
    (event,) = heard(1).take([result(0, 0.5, word("so", 0, 0.5, None), partial=True)])
    assert isinstance(event, StreamResult)
    assert not event.final
    assert event.words[0].confidence == 1.0


def test_silence_that_was_inserted_has_no_time() -> None:
    # One second of audio, one of silence, one of audio.
    results = heard(1, 1, 1)
    early, within, late = (
        results.take([result(at, at + 0.25, word("x", at, at + 0.25), partial=True, name=str(at))])[-1]
        for at in (0.5, 1.25, 2.5)
    )
    assert isinstance(early, StreamResult)
    assert isinstance(within, StreamResult)
    assert isinstance(late, StreamResult)
    assert (early.start, early.end) == (S // 2, 3 * S // 4)
    assert (within.start, within.end) == (S, S)
    assert (late.start, late.end) == (3 * S // 2, 7 * S // 4)


def test_a_result_over_inserted_silence_keeps_its_words_apart() -> None:
    final = result(0.5, 2.5, word("be", 0.5, 0.9), word("fore", 2.1, 2.5))
    (event, settled) = heard(1, 1, 1).take([final])
    assert isinstance(event, StreamResult)
    assert [(word.start, word.end) for word in event.words] == [
        (S // 2, round(0.9 * S)),
        (round(1.1 * S), 3 * S // 2),
    ]
    assert settled == Settled(3 * S // 2)


def test_nothing_lies_beyond_what_was_sent() -> None:
    (event, settled) = heard(1, 0.5).take([result(0.5, 9.0, word("x", 0.5, 9.0))])
    assert isinstance(event, StreamResult)
    assert (event.end, event.words[0].end) == (S, S)
    assert settled == Settled(S)


def test_when_a_segment_opens_what_lies_well_before_it_is_settled() -> None:
    results = heard(10)
    opening = result(5, 5.5, word("so", 5, 5.5), partial=True)
    assert results.take([opening])[0] == Settled(5 * S - ONSET_SAMPLES)
    assert len(results.take([opening])) == 1


def test_while_a_segment_is_open_another_one_settles_nothing() -> None:
    results = heard(10)
    results.take([result(1, 2, word("one", 1, 2), partial=True, name="a")])
    events = results.take([result(5, 6, word("two", 5, 6), partial=True, name="b")])
    assert [type(event) for event in events] == [StreamResult]


def test_finals_do_not_overlap_even_where_the_services_do() -> None:
    results = heard(10)
    results.take([result(1, 2, word("one", 1, 2), name="a")])
    (event, _) = results.take([result(1.9, 3, word("two", 1.9, 3), name="b")])
    assert isinstance(event, StreamResult)
    assert (event.start, event.words[0].start) == (2 * S, 2 * S)


def test_a_segment_that_was_nothing_is_settled_and_told_only_to_those_who_saw_it() -> None:
    results = heard(10)
    assert results.take([result(1, 2)]) == [Settled(2 * S)]
    results.take([result(3, 4, word("mm", 3, 4), partial=True)])
    (event, settled) = results.take([result(3, 4)])
    assert isinstance(event, StreamResult)
    assert (event.final, event.text) == (True, "")
    assert settled == Settled(4 * S)
    assert not results.speaking


def test_partials_without_text_and_results_without_alternatives_say_nothing() -> None:
    results = heard(10)
    assert results.take([result(1, 2, partial=True), Result("b", 1.0, 2.0, True)]) == []
    assert not results.speaking


def test_what_is_kept_in_mind_is_bounded() -> None:
    results = Results()
    for _ in range(2_000):
        results.audio(S)
        results.silence(S)
    assert results._timeline.pieces <= 151
    for count in range(1_000):
        results.take([result(3_000, 3_001, word("x", 3_000, 3_001), partial=True, name=str(count))])
    assert len(results._open) <= 64


def flushed(results: Results, now: float = 100.0) -> Flushing:
    flushing = Flushing(quiet=1.5, limit=8.0)
    flushing.ask(2 * S, now)
    return flushing


def test_a_flush_is_answered_at_once_when_a_final_reaches_its_end() -> None:
    results = heard(2, 1.25)
    flushing = flushed(results)
    assert flushing.answered(results, 100.1) == 0
    results.take([result(1, 1.95, word("x", 1, 1.95))])
    assert flushing.answered(results, 100.2) == 1
    assert flushing.waiting == 0


def test_a_flush_is_answered_when_nothing_has_come_for_a_while() -> None:
    results = heard(2, 1.25)
    flushing = flushed(results)
    results.take([result(0.5, 1, word("x", 0.5, 1))])
    flushing.heard(100.4)
    assert flushing.answered(results, 101.8) == 0
    assert flushing.answered(results, 101.95) == 1


def test_a_flush_is_answered_by_a_segment_that_opens_after_it() -> None:
    results = heard(2, 1.25, 1)
    flushing = flushed(results)
    assert flushing.passed(results, 2 * S - 1) == 0
    results.take([result(1, 1.5, word("x", 1, 1.5), partial=True)])
    assert flushing.passed(results, 7 * S // 2) == 0
    results.take([result(1, 1.5, word("x", 1, 1.5))])
    assert flushing.passed(results, 7 * S // 2) == 1


def test_a_flush_is_not_answered_while_a_segment_is_open_and_then_is_overdue() -> None:
    results = heard(2, 1.25)
    results.take([result(0.5, 1, word("x", 0.5, 1), partial=True)])
    flushing = flushed(results)
    assert flushing.answered(results, 107.9) == 0
    assert not flushing.overdue(107.9)
    assert flushing.overdue(108.1)


def test_a_service_that_lags_gets_more_time() -> None:
    results = Results()
    results.audio(2 * S)
    results.take([result(0, 0.5, word("x", 0, 0.5), partial=True)])
    results.silence(S)
    results.take([result(0, 0.5, word("x", 0, 0.5))])
    assert results.lag == 1.5
    flushing = flushed(results)
    assert flushing.answered(results, 102.9) == 0
    assert flushing.answered(results, 103.1) == 1


def test_what_was_answered_once_is_answered_again_at_once() -> None:
    results = heard(2, 1.25)
    flushing = flushed(results)
    assert flushing.answered(results, 102.0) == 1
    flushing.ask(2 * S, 102.1)
    flushing.ask(2 * S, 102.1)
    assert flushing.answered(results, 102.1) == 2


def test_the_end_answers_all() -> None:
    flushing = flushed(heard(2, 1.25))
    flushing.ask(3 * S, 100.0)
    assert flushing.end() == 2
    assert flushing.waiting == 0
