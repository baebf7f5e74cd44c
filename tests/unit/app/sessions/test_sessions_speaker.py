from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec
import pytest

from app.protocol.close import CloseCode
from app.sessions.finals import RECENT_FINALS, FinalsBook
from app.sessions.link import ACK_SECONDS, Closing, Link
from app.sessions.speaker import IDLE_SECONDS, RESUMES_MAX, RESUMES_SECONDS, SpeakerSide
from audio.pcm import FRAME_BYTES_MAX
from audio.ring import RING_SAMPLES, Ring
from audio.transcript import Partial
from tests.support.archives import a_final, sound


class Requests:
    """The session behind the speaker; ``durable`` is what the test says."""

    def __init__(self) -> None:
        self.durable = 0
        self.asked: list[str] = []

    def audio_arrived(self) -> None:
        self.asked.append("audio")

    def flush_requested(self) -> None:
        self.asked.append("flush")

    def pause_requested(self) -> None:
        self.asked.append("pause")

    def stop_requested(self) -> None:
        self.asked.append("stop")


class Rig:
    def __init__(self, origin: int = 0) -> None:
        self.ring = Ring(origin)
        self.reader = self.ring.add_reader("recorder", origin)
        self.book = FinalsBook(epoch=1, seq=0)
        self.requests = Requests()
        self.side = SpeakerSide(self.ring, self.book, self.requests)
        self.link = self.join()

    def join(self, now: float = 0.0, cursor: int = 0, serial: int = 1) -> Link:
        link = Link(serial=serial, missed=[], cursor=cursor, now=now, wake=lambda: None)
        self.side.attach(link)
        return link

    def audio(self, samples: int, now: float = 0.0) -> None:
        head = self.ring.head
        self.side.audio(self.link, sound(head, head + samples), now)

    def text(self, now: float = 0.0, **message: object) -> None:
        self.side.text(self.link, msgspec.json.encode(message).decode(), now)

    def taken(self, now: float = 0.0, link: Link | None = None) -> list[dict[str, Any]]:
        return [msgspec.json.decode(text) for text in self.side.take(link or self.link, now)]

    def final(self, count: int = 1) -> None:
        batch = self.book.number([a_final(self.book.numbered + n, n, n + 1) for n in range(1, count + 1)])
        self.book.keep(batch)
        self.book.mark_committed(batch[-1].seq)
        self.link.finals_committed([f.final.id for f in batch])

    def made_durable(self, position: int) -> None:
        self.reader.advance(position)
        self.requests.durable = position


def refused(act: object, *args: object, **fields: object) -> Closing:
    with pytest.raises(Closing) as caught:
        act(*args, **fields)  # type: ignore[operator]
    return caught.value


# Audio ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, 320, 3200, FRAME_BYTES_MAX])
def test_a_frame_of_whole_samples_is_taken(size: int) -> None:
    rig = Rig()
    rig.audio(size // 2)
    assert rig.ring.head == size // 2
    assert b"".join(rig.ring.view(0, size // 2)) == sound(0, size // 2)
    assert rig.requests.asked == ["audio"]


@pytest.mark.parametrize("size", [0, 1, 3, 321, FRAME_BYTES_MAX + 1, FRAME_BYTES_MAX + 2])
def test_any_other_frame_is_malformed_and_nothing_of_it_is_taken(size: int) -> None:
    rig = Rig()
    rig.audio(10)
    closing = refused(rig.side.audio, rig.link, bytes(size), 0.0)
    assert (closing.code, closing.word) == (CloseCode.MALFORMED, "bad_frame")
    assert rig.ring.head == 10


def test_audio_may_fill_the_window_to_the_last_sample() -> None:
    rig = Rig()
    for _ in range(RING_SAMPLES // 32_768):
        rig.audio(32_768)
    assert rig.ring.window == 0
    closing = refused(rig.audio, 1)
    assert (closing.code, closing.word) == (CloseCode.WINDOW, "window_exceeded")
    rig.made_durable(1)
    rig.audio(1)


def test_a_frame_beyond_the_window_is_dropped_whole() -> None:
    rig = Rig()
    for _ in range(RING_SAMPLES // 32_768 - 1):
        rig.audio(32_768)
    rig.audio(32_000)
    closing = refused(rig.audio, 769)
    assert closing.code is CloseCode.WINDOW
    assert str(RING_SAMPLES) in str(closing)
    assert rig.ring.window == 768


# Text -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "not_json"),
        ("{", "not_json"),
        ("\ud800", "not_json"),
        ("[]", "unknown_message"),
        ("{}", "unknown_message"),
        ('{"type":"sing"}', "unknown_message"),
        ('{"type":"stop","position":-1}', "unknown_message"),
        ('{"type":"stop","position":1.5}', "unknown_message"),
        ('{"type":"stop","position":"1"}', "unknown_message"),
        ('{"type":"stop","position":99999999999999999999}', "unknown_message"),
        ('{"type":"ping","id":{}}', "unknown_message"),
        ('{"type":"ping","id":"' + "x" * 5000 + '"}', "text_too_long"),
    ],
)
def test_text_that_is_no_message_of_the_contract_is_malformed(text: str, word: str) -> None:
    rig = Rig()
    closing = refused(rig.side.text, rig.link, text, 0.0)
    assert (closing.code, closing.word) == (CloseCode.MALFORMED, word)
    assert rig.requests.asked == []


def test_requests_reach_the_session() -> None:
    rig = Rig()
    rig.text(type="flush")
    rig.text(type="pause")
    assert rig.requests.asked == ["flush", "pause"]


@pytest.mark.parametrize("ping_id", ["a", 7, None])
def test_a_ping_is_answered_with_its_id(ping_id: object) -> None:
    rig = Rig()
    rig.text(type="ping", id=ping_id)
    assert rig.taken() == [{"type": "pong", "id": ping_id}]


def test_fields_of_a_newer_version_are_passed_over() -> None:
    rig = Rig()
    rig.text(type="flush", colour="blue")
    assert rig.requests.asked == ["flush"]


# Stop -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {"position": 100}])
def test_a_stop_at_the_head_ends_the_session_at_once(fields: dict[str, int]) -> None:
    rig = Rig()
    rig.audio(100)
    rig.text(type="stop", **fields)
    assert rig.requests.asked == ["audio", "stop"]


def test_a_stop_ahead_ends_the_session_when_its_audio_is_there() -> None:
    rig = Rig()
    rig.audio(100)
    rig.text(type="stop", position=150)
    rig.audio(30)
    assert "stop" not in rig.requests.asked
    rig.audio(20)
    assert rig.requests.asked == ["audio", "audio", "audio", "stop"]


def test_a_stop_behind_what_was_received_is_a_mistake() -> None:
    rig = Rig()
    rig.audio(100)
    closing = refused(rig.text, type="stop", position=99)
    assert (closing.code, closing.word) == (CloseCode.MALFORMED, "stop_behind")
    assert "stop" not in rig.requests.asked


def test_audio_past_the_stop_is_a_mistake_and_not_taken() -> None:
    rig = Rig()
    rig.audio(100)
    rig.text(type="stop", position=150)
    closing = refused(rig.audio, 51)
    assert (closing.code, closing.word) == (CloseCode.MALFORMED, "audio_after_stop")
    assert rig.ring.head == 100
    rig.audio(50)
    assert refused(rig.audio, 1).word == "audio_after_stop"


def test_a_stop_may_be_repeated() -> None:
    rig = Rig()
    rig.audio(100)
    for _ in range(3):
        rig.text(type="stop", position=100)
    assert rig.requests.asked == ["audio", "stop", "stop", "stop"]


def test_a_stop_holds_for_the_next_connection() -> None:
    rig = Rig()
    rig.text(type="stop", position=100)
    rig.side.detach(rig.link)
    rig.link = rig.join()
    rig.audio(100)
    assert rig.requests.asked[-1] == "stop"


# Acks -----------------------------------------------------------------------------------------------------------------


def acks(messages: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    return [(m["received"], m["durable"], m["window"]) for m in messages if m["type"] == "ack"]


def test_what_arrives_is_acknowledged_at_least_once_a_second() -> None:
    rig = Rig()
    gaps, last, now = [], 0.0, 0.0
    for step in range(1, 400):
        now = step * 0.05
        if step % 5 == 0:
            rig.side.tick(now)
        rig.audio(800, now)
        rig.made_durable(max(0, rig.ring.head - 50_000))
        if acks(rig.taken(now)):
            gaps.append(now - last)
            last = now
    assert max(gaps) <= 1.0
    assert len(gaps) >= 19


def test_what_is_not_durable_is_acknowledged_even_in_silence() -> None:
    rig = Rig()
    rig.audio(100)
    told = []
    for step in range(1, 41):
        now = step * 0.25
        rig.side.tick(now)
        told += [now] * len(acks(rig.taken(now)))
    assert len(told) >= 10
    assert max(b - a for a, b in pairwise(told)) <= 1.0


def test_nothing_is_acknowledged_when_all_is() -> None:
    rig = Rig()
    rig.audio(100)
    rig.made_durable(100)
    rig.side.tick(2.0)
    rig.taken(2.0)
    for step in range(1, 40):
        rig.side.tick(2.0 + step * 0.25)
        assert rig.taken(2.0 + step * 0.25) == []


def test_a_window_that_opens_is_told_with_the_next_tick() -> None:
    rig = Rig()
    rig.audio(1000)
    rig.side.tick(ACK_SECONDS)
    assert acks(rig.taken(ACK_SECONDS)) == [(1000, 0, RING_SAMPLES - 1000)]
    rig.made_durable(600)
    rig.side.tick(ACK_SECONDS + 0.25)
    assert acks(rig.taken(ACK_SECONDS + 0.25)) == [(1000, 600, RING_SAMPLES - 400)]


# Idle -----------------------------------------------------------------------------------------------------------------


def test_a_connection_that_went_quiet_is_closed_and_may_come_back() -> None:
    rig = Rig()
    rig.side.tick(IDLE_SECONDS - 0.01)
    assert not rig.link.closing
    rig.side.tick(IDLE_SECONDS)
    assert rig.link.close_code is CloseCode.IDLE
    assert rig.taken()[-1]["code"] == "idle"
    assert rig.taken() == []


@pytest.mark.parametrize("sign", ["audio", "ping", "pause"])
def test_a_sign_of_life_starts_the_minute_anew(sign: str) -> None:
    rig = Rig()
    if sign == "audio":
        rig.audio(1, 50.0)
    else:
        rig.text(50.0, type=sign)
    rig.side.tick(50.0 + IDLE_SECONDS - 0.01)
    assert not rig.link.closing
    rig.side.tick(50.0 + IDLE_SECONDS)
    assert rig.link.closing


def test_a_speaker_that_has_stopped_may_wait_as_long_as_it_takes() -> None:
    rig = Rig()
    rig.audio(100)
    rig.text(type="stop", position=100)
    rig.side.tick(10 * IDLE_SECONDS)
    assert not rig.link.closing


def test_a_speaker_that_owes_audio_up_to_its_stop_may_not() -> None:
    rig = Rig()
    rig.audio(100)
    rig.text(type="stop", position=200)
    rig.side.tick(IDLE_SECONDS)
    assert rig.link.close_code is CloseCode.IDLE


def test_a_session_without_a_speaker_ticks_on() -> None:
    rig = Rig()
    rig.side.detach(rig.link)
    rig.side.tick(1000.0)


# Connections ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("serial", "code", "told"),
    [(2, CloseCode.SUPERSEDED, ["superseded"]), (1, CloseCode.RESTARTING, [])],
    ids=["newer ticket", "same ticket"],
)
def test_a_newer_connection_takes_the_place_of_the_older_one(
    serial: int, code: CloseCode, told: list[str]
) -> None:
    rig = Rig()
    old = rig.link
    rig.link = rig.join(serial=serial)
    assert old.close_code is code
    assert [m["code"] for m in rig.taken(link=old)] == told
    rig.audio(10)
    for act in (lambda: rig.side.audio(old, b"ab", 0.0), lambda: rig.side.text(old, '{"type":"stop"}', 0.0)):
        assert refused(act).code is CloseCode.SUPERSEDED
    assert rig.ring.head == 10
    assert rig.requests.asked == ["audio"]


def test_one_that_speaks_is_sent_back_for_the_same_ticket_only_so_often_in_a_minute() -> None:
    rig, codes = Rig(), []
    for n in range(2 * RESUMES_MAX):
        rig.audio(1, now=n)
        old, rig.link = rig.link, rig.join(now=n)
        codes.append(old.close_code)
    assert codes == [CloseCode.RESTARTING] * RESUMES_MAX + [CloseCode.SUPERSEDED] * RESUMES_MAX
    rig.audio(1)
    old, rig.link = rig.link, rig.join(now=2 * RESUMES_MAX + RESUMES_SECONDS)
    assert old.close_code is CloseCode.RESTARTING


def test_calls_that_came_late_and_say_nothing_do_not_count() -> None:
    rig = Rig()
    for n in range(5 * RESUMES_MAX):
        old, rig.link = rig.link, rig.join(now=n)
        assert old.close_code is CloseCode.RESTARTING
    rig.text(type="ping", id=1)
    old, rig.link = rig.link, rig.join()
    assert old.close_code is CloseCode.RESTARTING


def test_a_superseded_connection_that_goes_takes_nobody_with_it() -> None:
    rig = Rig()
    old = rig.link
    rig.link = rig.join()
    assert not rig.side.detach(old)
    assert rig.side.link is rig.link
    assert rig.side.detach(rig.link)
    assert not rig.side.detach(rig.link)


def test_a_superseded_connection_is_sent_no_more_finals() -> None:
    rig = Rig()
    old = rig.link
    rig.link = rig.join(serial=2)
    rig.final()
    assert [m["type"] for m in rig.taken(link=old)] == ["error"]
    assert [m["type"] for m in rig.taken()] == ["final"]


def test_a_connection_that_joins_at_the_end_has_no_window() -> None:
    rig = Rig()
    rig.audio(100)
    rig.link.listens_only = True
    assert refused(rig.audio, 1).code is CloseCode.WINDOW
    rig.side.tick(5.0)
    assert acks(rig.taken(5.0)) == [(100, 0, 0)]
    rig.side.tick(10 * IDLE_SECONDS)
    assert not rig.link.closing


# Finals and partials --------------------------------------------------------------------------------------------------


def test_finals_are_sent_once_in_order_at_the_clients_own_pace() -> None:
    rig = Rig()
    rig.final(3)
    assert [m["seq"] for m in rig.taken()] == [1, 2, 3]
    rig.final()
    rig.final()
    assert [m["seq"] for m in rig.taken()] == [4, 5]
    assert rig.taken() == []


def test_a_partial_that_waits_does_not_follow_its_final() -> None:
    rig = Rig()
    rig.link.partial(Partial("u1", 0, 1, "w1"))
    rig.final()
    assert [m["type"] for m in rig.taken()] == ["final"]


def test_a_client_too_slow_for_the_finals_is_sent_away_to_resume() -> None:
    rig = Rig()
    rig.final(RECENT_FINALS + 50)
    rig.book.mark_archived(RECENT_FINALS + 50)
    messages = rig.taken()
    assert [m["type"] for m in messages] == ["error"]
    assert messages[0]["retryable"] is True
    assert rig.link.close_code is CloseCode.INTERNAL
    rig.link = rig.join(cursor=60)
    assert [m["seq"] for m in rig.taken()] == list(range(61, RECENT_FINALS + 51))
