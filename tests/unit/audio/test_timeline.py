from __future__ import annotations

import pytest

from audio.engine import StreamResult, StreamWord
from audio.timeline import OPEN_RESULTS_MAX, ResultIds, Timeline, ordinal_of, placed
from audio.transcript import Final, Partial, Word


def test_a_fresh_stream_knows_only_where_it_starts() -> None:
    timeline = Timeline(500)
    assert timeline.sent == 0
    assert timeline.position_of(0) == timeline.position_of(99) == timeline.position_of(0, end=True) == 500


def test_within_audio_time_is_linear_and_contiguous_audio_is_one_piece() -> None:
    timeline = Timeline(500)
    for position in (500, 600, 700):
        timeline.audio(position, 100)
    assert (timeline.sent, timeline.pieces) == (300, 1)
    assert [timeline.position_of(at) for at in (0, 1, 150, 299, 300)] == [500, 501, 650, 799, 800]


def test_what_lies_beyond_is_the_last_position() -> None:
    timeline = Timeline(0)
    timeline.audio(0, 100)
    timeline.silence(50)
    assert timeline.sent == 150
    assert (
        timeline.position_of(120)
        == timeline.position_of(10_000)
        == timeline.position_of(10_000, end=True)
        == 100
    )


def test_inserted_silence_stands_for_no_position() -> None:
    timeline = Timeline(0)
    timeline.audio(0, 100)
    timeline.silence(50)
    timeline.audio(100, 100)
    assert [timeline.position_of(at) for at in (99, 100, 125, 149, 150, 151)] == [99, 100, 100, 100, 100, 101]
    assert [timeline.position_of(at, end=True) for at in (100, 125, 150, 151)] == [100, 100, 100, 101]


def test_on_the_border_of_a_jump_an_end_stays_before_it_and_a_start_goes_behind_it() -> None:
    timeline = Timeline(0)
    timeline.audio(0, 100)
    timeline.audio(5_000, 100)
    assert timeline.position_of(100, end=True) == 100
    assert timeline.position_of(100) == 5_000
    assert timeline.position_of(101, end=True) == 5_001


def test_silence_within_a_jump_has_two_borders() -> None:
    timeline = Timeline(0)
    timeline.audio(0, 100)
    timeline.silence(40)
    timeline.audio(5_000, 100)
    assert timeline.position_of(120, end=True) == 100
    assert timeline.position_of(120) == 5_000


def test_a_stream_may_begin_with_silence() -> None:
    timeline = Timeline(300)
    timeline.silence(40)
    timeline.audio(300, 10)
    assert timeline.position_of(20) == timeline.position_of(20, end=True) == timeline.position_of(40) == 300
    assert timeline.position_of(45) == 305


def test_audio_goes_forward_only() -> None:
    timeline = Timeline(100)
    for position, samples in ((99, 10), (100, -1)):
        with pytest.raises(ValueError, match="do not follow"):
            timeline.audio(position, samples)
    timeline.audio(100, 10)
    with pytest.raises(ValueError, match="do not follow"):
        timeline.audio(109, 10)
    with pytest.raises(ValueError, match="silence"):
        timeline.silence(-1)
    timeline.audio(110, 0)
    assert timeline.sent == 10


def test_forgetting_keeps_what_later_questions_need() -> None:
    timeline = Timeline(0)
    for turn in range(100):
        timeline.audio(turn * 1_000, 100)
        timeline.silence(10)
    before = [(timeline.position_of(at), timeline.position_of(at, end=True)) for at in range(5_505, 12_000)]
    timeline.forget(5_505)
    assert timeline.pieces == 50
    assert [
        (timeline.position_of(at), timeline.position_of(at, end=True)) for at in range(5_505, 12_000)
    ] == before
    timeline.forget(timeline.sent - 10)
    assert timeline.pieces == 0
    assert timeline.position_of(0) == timeline.position_of(timeline.sent) == 99_100
    timeline.audio(99_100, 5)
    assert timeline.position_of(timeline.sent) == 99_105


def test_four_hours_with_silence_after_every_second_stay_small() -> None:
    timeline = Timeline(0)
    for second in range(4 * 3_600):
        timeline.audio(second * 16_000, 16_000)
        timeline.silence(1_600)
        timeline.forget(timeline.sent - 10 * 17_600)
        assert timeline.pieces <= 11


def test_ids_count_up_in_order_of_first_sight() -> None:
    ids = ResultIds()
    assert [ids.id_for(name) for name in ("a", "b", "a", "c")] == ["u1", "u2", "u1", "u3"]
    assert ids.next_ordinal == 4


def test_a_final_keeps_the_id_of_its_partials() -> None:
    ids = ResultIds(next_ordinal=7)
    assert ids.id_for("a") == "u7"
    assert ids.settle("a") == "u7"
    assert ids.settle("never seen") == "u8"


def test_an_engine_id_that_comes_back_after_its_final_is_another_result() -> None:
    ids = ResultIds()
    assert ids.settle("a") == "u1"
    assert ids.id_for("a") == "u2"


def test_a_replayed_stream_takes_up_the_unfinished_ids_in_order() -> None:
    ids = ResultIds()
    for name in ("a", "b", "c"):
        ids.id_for(name)
    ids.settle("b")
    ids.restart()
    assert [ids.id_for(name) for name in ("x", "y", "z")] == ["u1", "u3", "u4"]


def test_unfinished_ids_outlive_several_restarts() -> None:
    ids = ResultIds()
    ids.id_for("a")
    ids.id_for("b")
    ids.restart()
    assert ids.id_for("a") == "u1"
    ids.restart()
    ids.restart()
    assert [ids.settle("a"), ids.settle("b"), ids.settle("c")] == ["u1", "u2", "u3"]


def test_an_engine_that_never_finishes_anything_does_not_fill_memory() -> None:
    ids = ResultIds()
    names = [f"r{at}" for at in range(3 * OPEN_RESULTS_MAX)]
    given = [ids.id_for(name) for name in names]
    assert len(set(given)) == len(names)
    assert ids.settle(names[-OPEN_RESULTS_MAX]) == given[-OPEN_RESULTS_MAX]
    assert ids.settle(names[0]) not in given
    ids.restart()
    assert ids.id_for("next") == given[-OPEN_RESULTS_MAX + 1]


def test_an_id_tells_its_number() -> None:
    assert ordinal_of("u12") == 12
    assert ordinal_of(ResultIds(40).id_for("a")) == 40


@pytest.mark.parametrize("wrong", ["", "u", "12", "x12", "u-1", "u1a", "u\uff11"])
def test_what_is_no_id_of_ours_has_no_number(wrong: str) -> None:
    with pytest.raises(ValueError, match="u<n>"):
        ordinal_of(wrong)


def timeline_from(position: int, samples: int) -> Timeline:
    timeline = Timeline(position)
    timeline.audio(position, samples)
    return timeline


def test_a_partial_is_placed() -> None:
    result = StreamResult(
        "e1", 100, 300, "a cough", final=False, words=(StreamWord("a", 100, 150, 0.5, "A"),)
    )
    assert placed(result, timeline_from(1_000, 400), ResultIds(), "en-US") == Partial(
        "u1", 1_100, 1_300, "a cough", (Word("a", 1_100, 1_150, 0.5, "A"),)
    )


def test_a_final_is_settled_and_has_a_language() -> None:
    timeline, ids = timeline_from(0, 400), ResultIds()
    placed(StreamResult("e1", 0, 10, "a", final=False), timeline, ids, "en-US")
    assert placed(StreamResult("e1", 0, 20, "a b", final=True), timeline, ids, "en-US") == Final(
        "u1", 0, 20, "a b", (), "en-US"
    )
    other = placed(StreamResult("e1", 20, 30, "c", final=True, language="ja-JP"), timeline, ids, "en-US")
    assert (other.id, other.language) == ("u2", "ja-JP")


def test_words_are_in_order_within_their_result_whatever_the_engine_says() -> None:
    words = (
        StreamWord("early", -50, 120, 1.5),
        StreamWord("overlapping", 110, 130, -0.5),
        StreamWord("backwards", 90, 80, 0.5),
        StreamWord("late", 190, 900, 0.5),
    )
    result = StreamResult("e", 100, 200, "…", final=True, words=words)
    given = placed(result, timeline_from(0, 1_000), ResultIds(), "en-US").words
    assert [(word.start, word.end) for word in given] == [(100, 120), (120, 130), (130, 130), (190, 200)]
    assert [word.confidence for word in given] == [1.0, 0.0, 0.5, 0.5]


def test_a_result_that_ends_before_it_starts_is_empty() -> None:
    given = placed(StreamResult("e", 50, 40, "", final=False), timeline_from(0, 100), ResultIds(), "en-US")
    assert (given.start, given.end) == (50, 50)


def test_a_result_heard_in_inserted_silence_has_its_border() -> None:
    timeline = timeline_from(0, 100)
    timeline.silence(100)
    timeline.audio(100, 100)
    given = placed(StreamResult("e", 90, 150, "mm", final=False), timeline, ResultIds(), "en-US")
    assert (given.start, given.end) == (90, 100)


def test_ids_know_whether_a_result_may_still_change() -> None:
    ids = ResultIds()
    seen = [ids.unfinished]
    ids.id_for("a")
    ids.id_for("b")
    ids.settle("a")
    seen.append(ids.unfinished)
    ids.restart()
    seen.append(ids.unfinished)
    assert seen == [False, True, False]
