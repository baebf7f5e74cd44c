from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from app.protocol.messages import Ack
from app.sessions.courier import Courier, SessionNotes
from app.sessions.finals import FinalsBook
from app.sessions.link import Link
from app.telemetry.metrics import Metrics
from audio.coverage import Ranges
from audio.transcript import Final, Partial
from tests.support.archives import REF, a_final, finals
from tests.support.memory_log import MemoryLog


class Committed:
    def __init__(self) -> None:
        self.finals: list[Final] = []

    def add(self, final: Final) -> None:
        self.finals.append(final)


class Rig:
    def __init__(self, durable: int = 0) -> None:
        self.metrics = Metrics()
        self.published = MemoryLog()
        self.courier = Courier(self.metrics, self.published, REF, epoch=3, durable=durable)
        self.committer = Committed()
        self.courier.committer = self.committer  # type: ignore[assignment]  # only what a courier calls
        self.link = Link(serial=1, missed=[], cursor=0, now=0.0, wake=lambda: None)
        self.courier.link = self.link

    def sent(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(text) for text in self.link.take([], Ack(0, 0, 0), 0.0)]


def test_a_hypothesis_goes_straight_to_the_speaker() -> None:
    rig = Rig()
    rig.courier.on_partial(Partial("u1", 0, 5, "kn"))
    assert [(m["type"], m["text"]) for m in rig.sent()] == [("partial", "kn")]
    assert rig.published.partials == [(REF, 3, Partial("u1", 0, 5, "kn"))]


def test_an_engines_final_is_shown_at_once_and_given_to_the_committer() -> None:
    rig = Rig()
    final = a_final(1, 0, 5, "knee")
    rig.courier.on_final(final)
    assert rig.committer.finals == [final]
    assert [(m["type"], m["id"], m["text"]) for m in rig.sent()] == [("partial", "u1", "knee")]


def test_a_committed_final_takes_its_caption_away() -> None:
    rig = Rig()
    rig.courier.on_final(a_final(1, 0, 5))
    rig.courier.on_committed(finals(1, 1), 0.002)
    assert rig.sent() == []
    assert rig.metrics.finals_committed._value.get() == 1
    assert rig.metrics.commit_seconds._sum.get() == 0.002


def test_what_is_durable_is_acknowledged_and_counted_once() -> None:
    rig = Rig(durable=1000)
    rig.courier.on_durable(1500, 0.01)
    rig.courier.on_durable(1500, 0.01)
    assert [m["type"] for m in rig.sent()] == ["ack"]
    assert rig.metrics.samples_durable._value.get() == 500
    assert rig.courier.stored.is_set()


def test_trouble_is_told_to_the_speaker() -> None:
    rig = Rig()
    rig.courier.on_archive_degraded("no_space")
    rig.courier.on_archive_recovered()
    rig.courier.on_notice("transcript_gap", "not heard", 100, 250)
    rig.courier.on_log_lost()
    sent = rig.sent()
    assert [(m["code"], m.get("from"), m.get("to")) for m in sent] == [
        ("archive_degraded", None, None),
        ("archive_recovered", None, None),
        ("transcript_gap", 100, 250),
    ]
    assert "no_space" in sent[0]["message"]
    assert rig.metrics.transcript_gap_samples._value.get() == 150
    assert rig.published.events == [(REF, "notice")] * 3


def test_an_engine_that_was_started_again_is_counted() -> None:
    rig = Rig()
    rig.courier.on_notice("engine_restarted", "again", 0, None)
    assert rig.metrics.engine_restarts._value.get() == 1


def test_without_a_speaker_everything_goes_on() -> None:
    rig = Rig()
    rig.courier.link = None
    rig.courier.on_partial(Partial("u1", 0, 5, "kn"))
    rig.courier.on_final(a_final(1, 0, 5))
    rig.courier.on_committed(finals(1, 1), 0.002)
    rig.courier.on_durable(5, 0.1)
    rig.courier.on_notice("engine_waiting", "wait", None, None)
    assert len(rig.committer.finals) == 1
    assert [partial.text for _, _, partial in rig.published.partials] == ["kn", "w1"]
    assert rig.sent() == []


def test_notes_tell_what_segments_carry() -> None:
    book = FinalsBook(epoch=1, seq=4)
    notes = SessionNotes(book, Ranges([(0, 10)]), None)
    assert notes.marks() == (4, [(0, 10)], 0)
    book.keep(book.number([a_final(5, 0, 1)]))
    assert [f.seq for f in notes.unarchived()] == [5]
    assert notes.marks()[0] == 5
    notes.mark_archived(5)
    assert notes.unarchived() == []


def test_what_was_heard_is_that_of_all_owners() -> None:
    class Heard:
        live = Ranges([(10, 30)])
        settled = 30

    notes = SessionNotes(FinalsBook(epoch=1, seq=0), Ranges([(0, 12)]), Heard())  # type: ignore[arg-type]
    assert (list(notes.live), notes.settled) == ([(0, 30)], 30)


@pytest.mark.parametrize("cleared", [False, True])
async def test_whoever_waits_for_something_stored_is_woken(cleared: bool) -> None:
    rig = Rig()
    if cleared:
        rig.courier.on_durable(1, 0.1)
        rig.courier.stored.clear()
    waiting = asyncio.wait_for(rig.courier.stored.wait(), 1)
    rig.courier.on_durable(5, 0.1)
    assert await waiting
