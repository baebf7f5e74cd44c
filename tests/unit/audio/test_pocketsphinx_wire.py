from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audio.engine import Flushed, Settled, StreamWord
from audio.engines.pocketsphinx_wire import (
    LENGTH,
    Answered,
    Begun,
    Ended,
    Heard,
    Message,
    PipeOutOfStep,
    Quiet,
    Report,
    ReportReader,
    Result,
    as_event,
    encode_report,
)

MESSAGES: list[Message] = [
    Begun(),
    Heard(7),
    Result("s1", 1, 5, True, "a b", (("a", 1, 2, 0.5), ("b", 3, 5, 1.0))),
    Result("s1", 1, 5, False, "a"),
    Quiet(9),
    Answered(),
    Ended(),
]


@given(st.lists(st.sampled_from(MESSAGES)), st.integers(1, 50))
def test_reports_come_out_as_they_went_in_however_the_pipe_cuts_them(
    messages: list[Message], size: int
) -> None:
    sent = [Report(number, message) for number, message in enumerate(messages)]
    data = b"".join(map(encode_report, sent))
    reader = ReportReader()
    got = [report for at in range(0, len(data), size) for report in reader.feed(data[at : at + size])]
    assert got == sent


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", LENGTH.pack(3) + b"xyz", LENGTH.pack(0)])
def test_anything_else_is_out_of_step_and_not_quoted(data: bytes) -> None:
    with pytest.raises(PipeOutOfStep) as caught:
        list(ReportReader().feed(data))
    assert "xyz" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_the_consumer_is_told() -> None:
    events = [as_event(message) for message in MESSAGES]
    assert events[0] is events[1] is events[6] is None
    assert events[4:6] == [Settled(9), Flushed()]
    result = MESSAGES[2]
    assert isinstance(result, Result)
    told = result.as_event()
    assert (told.id, told.final, told.text) == ("s1", True, "a b")
    assert told.words[1] == StreamWord("b", 3, 5, 1.0)
