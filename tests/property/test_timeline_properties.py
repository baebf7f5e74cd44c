"""The timeline against the plainest model: a list with the position of every stream sample."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from audio.engine import StreamResult, StreamWord
from audio.timeline import ResultIds, Timeline, ordinal_of, placed

START = 10
STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.sampled_from([0, 0, 0, 1, 40])), max_size=20)
Steps = list[tuple[bool, int, int]]


def told(steps: Steps) -> tuple[Timeline, list[int | None]]:
    timeline, position = Timeline(START), START
    model: list[int | None] = []
    for is_audio, count, jump in steps:
        if is_audio:
            position += jump
            timeline.audio(position, count)
            model += range(position, position + count)
            position = position + count if count else position - jump
        else:
            timeline.silence(count)
            model += [None] * count
    return timeline, model


def start_in(model: list[int | None], at: int) -> int:
    """The next audio sample; where there is none, one past the last."""
    return next((position for position in model[at:] if position is not None), end_in(model, len(model)))


def end_in(model: list[int | None], at: int) -> int:
    """One past the audio sample before."""
    return next((position + 1 for position in reversed(model[:at]) if position is not None), START)


@given(STEPS)
def test_every_stream_sample_has_the_position_of_the_model(steps: Steps) -> None:
    timeline, model = told(steps)
    assert timeline.sent == len(model)
    for at in range(len(model) + 3):
        assert timeline.position_of(at) == start_in(model, at)
        assert timeline.position_of(at, end=True) == end_in(model, at)


@given(STEPS)
def test_positions_never_go_back_and_ends_are_never_after_starts(steps: Steps) -> None:
    timeline, model = told(steps)
    asked = range(-2, len(model) + 3)
    starts = [timeline.position_of(at) for at in asked]
    ends = [timeline.position_of(at, end=True) for at in asked]
    assert starts == sorted(starts)
    assert ends == sorted(ends)
    assert all(end <= start for start, end in zip(starts, ends, strict=True))


@given(STEPS, STEPS, st.integers(0, 120))
def test_forgetting_changes_no_later_answer(steps: Steps, more: Steps, before: int) -> None:
    whole, _ = told(steps + more)
    pruned, _ = told(steps)
    before = min(before, pruned.sent)
    pruned.forget(before)
    position = told(steps)[0].position_of(pruned.sent)
    for is_audio, count, jump in more:
        if is_audio and count:
            position += jump
            pruned.audio(position, count)
            position += count
        elif not is_audio:
            pruned.silence(count)
    for at in range(before, whole.sent + 3):
        assert pruned.position_of(at) == whole.position_of(at)
        assert pruned.position_of(at, end=True) == whole.position_of(at, end=True)


TIMES = st.integers(-5, 150)


@given(STEPS, TIMES, TIMES, st.lists(st.tuples(TIMES, TIMES), max_size=6), st.booleans())
def test_a_placed_result_is_in_order_whatever_the_engine_says(
    steps: Steps, start: int, end: int, times: list[tuple[int, int]], final: bool
) -> None:
    words = tuple(StreamWord("w", one, other, 0.5) for one, other in times)
    result = placed(StreamResult("e", start, end, "w", final, words), told(steps)[0], ResultIds(), "en-US")
    borders = [
        result.start,
        *(border for word in result.words for border in (word.start, word.end)),
        result.end,
    ]
    assert borders == sorted(borders)
    assert result.start >= START


class Ids(RuleBasedStateMachine):
    """However streams die, a settled id never comes back and unfinished ones are taken up in order."""

    def __init__(self) -> None:
        super().__init__()
        self.ids = ResultIds()
        self.open: dict[str, int] = {}
        self.free: list[int] = []
        self.settled: set[int] = set()
        self.next = 1

    def expected(self, engine_id: str) -> int:
        if engine_id not in self.open:
            if not self.free:
                self.free.append(self.next)
                self.next += 1
            self.open[engine_id] = self.free.pop(0)
        return self.open[engine_id]

    @rule(engine_id=st.sampled_from("abcdef"))
    def hear(self, engine_id: str) -> None:
        ordinal = ordinal_of(self.ids.id_for(engine_id))
        assert ordinal == self.expected(engine_id)
        assert ordinal not in self.settled

    @rule(engine_id=st.sampled_from("abcdef"))
    def settle(self, engine_id: str) -> None:
        ordinal = ordinal_of(self.ids.settle(engine_id))
        assert ordinal == self.expected(engine_id)
        assert ordinal not in self.settled
        self.settled.add(self.open.pop(engine_id))

    @rule()
    def restart(self) -> None:
        self.ids.restart()
        self.free = sorted([*self.free, *self.open.values()])
        self.open = {}

    @invariant()
    def no_number_is_skipped(self) -> None:
        assert self.ids.next_ordinal == self.next
        assert sorted([*self.settled, *self.open.values(), *self.free]) == list(range(1, self.next))


TestIds = Ids.TestCase
