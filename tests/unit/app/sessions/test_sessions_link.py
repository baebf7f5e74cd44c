from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from app.protocol.close import CloseCode
from app.protocol.messages import Ack, Completed, Draining, Flushed, Notice, Pong
from app.sessions.link import WAITING_MAX, Closing, Link
from audio.transcript import CommittedFinal, Partial
from tests.support.archives import finals

ACK = Ack(10, 5, 100)
COMPLETED = Completed("s", 10, 0, {}, None)


@dataclass
class Woken:
    times: int = 0

    def __call__(self) -> None:
        self.times += 1


def link(missed: list[CommittedFinal] | None = None, cursor: int = 0, wake: Woken | None = None) -> Link:
    return Link(serial=1, missed=missed or [], cursor=cursor, now=100.0, wake=wake or Woken())


def partial(number: int, text: str = "x") -> Partial:
    return Partial(f"u{number}", 0, 5, text)


def taken(of: Link, new: list[CommittedFinal] | None = None, now: float = 100.0) -> list[dict[str, Any]]:
    return [msgspec.json.decode(text) for text in of.take(new or [], ACK, now)]


def types(messages: list[dict[str, Any]]) -> list[str]:
    return [str(message["type"]) for message in messages]


def test_nothing_waits_in_a_new_link() -> None:
    assert taken(link()) == []


def test_what_was_missed_is_sent_once_and_first() -> None:
    one = link(finals(1, 2), cursor=2)
    one.partial(partial(3))
    messages = taken(one, finals(3, 3))
    assert [(m["type"], m.get("seq")) for m in messages] == [
        ("final", 1),
        ("final", 2),
        ("final", 3),
        ("partial", None),
    ]
    assert one.cursor == 3
    assert taken(one) == []


def test_a_newer_partial_replaces_the_one_that_waits() -> None:
    one = link()
    one.partial(partial(1, "kn"))
    one.partial(partial(2, "he"))
    one.partial(partial(1, "knee"))
    assert [(m["id"], m["text"]) for m in taken(one)] == [("u1", "knee"), ("u2", "he")]


def test_a_partial_never_follows_its_final() -> None:
    one = link()
    one.partial(partial(1))
    one.partial(partial(2))
    one.finals_committed(["u1"])
    assert [(m["type"], m["id"]) for m in taken(one, finals(1, 1))] == [("final", "u1"), ("partial", "u2")]


def test_an_ack_says_what_holds_when_it_is_sent() -> None:
    one = link()
    one.ack()
    one.ack()
    (message,) = [msgspec.json.decode(t) for t in one.take([], Ack(99, 50, 7), 123.0)]
    assert message == {"type": "ack", "received": 99, "durable": 50, "window": 7}
    assert one.last_ack == 123.0
    assert taken(one) == []


def test_the_order_is_one_that_a_client_can_rely_on() -> None:
    one = link(finals(1, 1), cursor=1)
    one.complete(COMPLETED)
    one.draining(Draining(0))
    one.pong(Pong(7))
    one.flushed(Flushed(10, 2))
    one.ack()
    one.partial(partial(3))
    one.notice(Notice("engine_waiting", "wait"))
    assert types(taken(one, finals(2, 2))) == [
        "notice",
        "final",
        "final",
        "partial",
        "ack",
        "flushed",
        "pong",
        "draining",
        "completed",
    ]


def test_everything_that_waits_wakes_the_writer() -> None:
    woken = Woken()
    one = link(wake=woken)
    steps: list[Callable[[], None]] = [
        lambda: one.partial(partial(1)),
        lambda: one.finals_committed(["u1"]),
        lambda: one.notice(Notice("a", "b")),
        lambda: one.flushed(Flushed(0, 0)),
        lambda: one.pong(Pong()),
        lambda: one.draining(Draining(0)),
        one.ack,
        lambda: one.close(Closing(CloseCode.IDLE, "idle", "so long")),
        lambda: one.complete(COMPLETED),
    ]
    for count, step in enumerate(steps, 1):
        step()
        assert woken.times == count


def test_a_client_that_reads_nothing_costs_a_bounded_number_of_messages() -> None:
    one = link()
    for n in range(10_000):
        one.notice(Notice("engine_waiting", str(n)))
        one.pong(Pong(n))
        one.flushed(Flushed(n, n))
        one.ack()
        one.draining(Draining(n))
        one.partial(partial(n % 3, str(n)))
    messages = taken(one)
    assert len(messages) == 3 * WAITING_MAX + 3 + 1 + 1
    assert [m["id"] for m in messages if m["type"] == "pong"] == list(range(10_000 - WAITING_MAX, 10_000))
    assert [m["position"] for m in messages if m["type"] == "flushed"][-1] == 9_999
    assert [m["message"] for m in messages if m["type"] == "notice"][-1] == "9999"


def test_partials_that_wait_are_few_however_many_were_committed() -> None:
    one = link()
    for n in range(1_000):
        one.partial(partial(n))
        one.finals_committed([f"u{n}"])
    assert taken(one) == []


# Closing --------------------------------------------------------------------------------------------------------------


def test_a_private_code_is_explained_before_the_close() -> None:
    one = link()
    one.close(Closing(CloseCode.WINDOW, "window_exceeded", "too far"))
    assert (one.closing, one.waiting, one.close_code) == (True, True, 4413)
    assert taken(one) == [
        {"type": "error", "code": "window_exceeded", "message": "too far", "retryable": True}
    ]
    assert (one.closing, one.waiting) == (True, False)


@pytest.mark.parametrize(
    ("code", "retryable"),
    [
        (CloseCode.MALFORMED, False),
        (CloseCode.SUPERSEDED, False),
        (CloseCode.IDLE, True),
        (CloseCode.WINDOW, True),
        (CloseCode.INTERNAL, True),
    ],
)
def test_a_client_is_told_whether_to_come_back(code: CloseCode, retryable: bool) -> None:
    one = link()
    one.close(Closing(code, "word", "why"))
    assert taken(one)[0]["retryable"] is retryable


def test_a_standard_code_needs_no_error() -> None:
    one = link()
    one.close(Closing(CloseCode.RESTARTING, "restarting", "bye"))
    assert (one.closing, one.close_code, taken(one)) == (True, 1012, [])


def test_the_first_reason_stands() -> None:
    one = link()
    one.close(Closing(CloseCode.SUPERSEDED, "superseded", "a newer one"))
    one.close(Closing(CloseCode.IDLE, "idle", "quiet"))
    assert one.close_code is CloseCode.SUPERSEDED
    assert [m["code"] for m in taken(one)] == ["superseded"]


def test_a_completed_session_is_told_last_and_closed_with_1000() -> None:
    one = link(finals(1, 2), cursor=2)
    one.complete(COMPLETED)
    assert types(taken(one)) == ["final", "final", "completed"]
    assert (one.closing, one.close_code, one.waiting) == (True, 1000, False)
