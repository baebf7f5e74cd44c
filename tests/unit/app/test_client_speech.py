from __future__ import annotations

from itertools import pairwise

import pytest

from app.client.errors import ProtocolError
from app.client.outbox import Outbox, chunks
from app.client.speech import Speech
from app.protocol.messages import (
    Ack,
    Completed,
    Draining,
    ErrorMessage,
    FinalMessage,
    Notice,
    PartialMessage,
    Ready,
    ServerMessage,
)

READY = Ready("s-1", 0, 1_000, 1, "resume-1", {}, {})


class Told:
    def __init__(self) -> None:
        self.events: list[ServerMessage] = []
        self.speech = Speech("s-1", Outbox(chunks(bytes(10_000)), 200), self.events.append)


def final(seq: int) -> FinalMessage:
    return FinalMessage(seq, f"r{seq}", seq, seq + 1, "", (), "en-US")


def test_ready_comes_first_and_once_on_each_connection() -> None:
    told = Told()
    with pytest.raises(ProtocolError):
        told.speech.hear(Ack(0, 0, 0))
    told.speech.hear(READY)
    with pytest.raises(ProtocolError):
        told.speech.hear(READY)
    told.speech.connected()
    states = [told.speech.ready]
    told.speech.hear(READY)
    assert [*states, told.speech.ready] == [False, True]
    assert told.speech.resume_ticket == "resume-1"


def test_ready_for_another_session_is_refused() -> None:
    with pytest.raises(ProtocolError):
        Told().speech.hear(Ready("s-2", 0, 1_000, 1, "resume-1", {}, {}))


def test_a_final_that_is_sent_again_after_a_reconnect_is_told_once() -> None:
    told = Told()
    told.speech.hear(READY)
    told.speech.hear(final(1))
    told.speech.connected()
    told.speech.hear(READY)
    told.speech.hear(final(1))
    told.speech.hear(final(2))
    assert told.events == [READY, final(1), READY, final(2)]


def test_partials_that_are_final_already_are_not_told() -> None:
    told = Told()
    told.speech.hear(READY)
    told.speech.hear(final(1))
    told.speech.hear(PartialMessage("r1", 0, 1, ""))
    assert told.events == [READY, final(1)]


def test_withdrawn_finals_are_told_anew() -> None:
    told = Told()
    told.speech.hear(READY)
    told.speech.hear(final(1))
    told.speech.hear(final(2))
    told.speech.hear(Notice("finals_rewound", "", seq=1))
    told.speech.hear(final(2))
    assert told.events.count(final(2)) == 2


def test_progress_is_more_received_more_durable_or_another_final() -> None:
    told = Told()
    told.speech.hear(READY)
    for _ in range(3):
        told.speech.outbox.take()
    seen = [told.speech.progress]
    for message in (Ack(100, 0, 1_000), Ack(100, 50, 1_000), Ack(100, 50, 2_000), final(1)):
        told.speech.hear(message)
        seen.append(told.speech.progress)
    assert [later > earlier for earlier, later in pairwise(seen)] == [
        True,
        True,
        False,
        True,
    ]


def test_sending_again_what_was_received_before_is_no_progress() -> None:
    told = Told()
    told.speech.hear(READY)
    for _ in range(3):
        told.speech.outbox.take()
    told.speech.hear(Ack(300, 0, 1_000))
    before = told.speech.progress
    told.speech.connected()
    told.speech.hear(READY)
    for _ in range(3):
        told.speech.outbox.take()
    told.speech.hear(Ack(300, 0, 1_000))
    assert told.speech.progress == before


def test_a_resume_further_on_is_progress_though_no_ack_came_before() -> None:
    told = Told()
    told.speech.hear(READY)
    for _ in range(3):
        told.speech.outbox.take()
    before = told.speech.progress
    told.speech.connected()
    told.speech.hear(Ready("s-1", 200, 1_000, 1, "resume-2", {}, {}))
    assert told.speech.progress > before


def test_what_one_connection_said_about_itself_ends_with_it() -> None:
    told = Told()
    said: list[object] = []
    for message in (ErrorMessage("quota", "too many", retryable=False), READY, Draining(250)):
        told.speech.hear(message)
    for _ in range(2):
        said.append((told.speech.error, told.speech.reconnect_in_ms))
        told.speech.connected()
    assert said == [(ErrorMessage("quota", "too many", retryable=False), 250), (None, None)]


def test_completed_stays() -> None:
    told = Told()
    done = Completed("s-1", 5_000, 0, {}, None)
    told.speech.hear(READY)
    told.speech.hear(done)
    told.speech.connected()
    assert told.speech.completed == done
