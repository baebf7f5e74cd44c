from __future__ import annotations

import pytest

from app.archive.history import History, Listing
from app.archive.records import Base, EpochRecord, Manifest, SessionRecord, wire_coverage
from app.sessions.state import SessionState
from app.sessions.views import (
    archived_item,
    archived_state,
    completed_message,
    coverage_so_far,
    coverage_view,
    final_view,
    item_of,
)
from audio.coverage import Ranges
from tests.support.archives import CREATED_AT, finals

RECORD = SessionRecord("s", "north", CREATED_AT, "dr.a", "ja-JP", title="T", external_id="X")
WIRE = {"archived": [(0, 9)], "live": [], "filled": [], "untranscribed": [(0, 9)], "missing": []}


def epoch(number: int, serial: int, claimed_at: str = "2026-11-20T09:05:00Z") -> EpochRecord:
    return EpochRecord(number, "t", "speaker", claimed_at, serial=serial, base=Base(0, 0))


def manifest(number: int, state: str = "completed") -> Manifest:
    return Manifest(
        "s", "north", number, state, "stopped", "2026-11-20T09:30:00Z", 9, 2, WIRE, audio_sha256="ab"
    )


def history(*epochs: EpochRecord, end: Manifest | None = None) -> History:
    listing = Listing(tuple(e.epoch for e in epochs), (), (), frozenset())
    return History(RECORD, listing, epochs, end, 9, 2)


@pytest.mark.parametrize(
    ("told", "state"),
    [
        (history(), "created"),
        (history(epoch(1, 0)), "created"),
        (history(epoch(1, 5)), "detached"),
        (history(epoch(1, 5), end=manifest(1)), "completed"),
        (history(epoch(1, 5), end=manifest(1, "failed")), "failed"),
        (history(epoch(1, 0), end=manifest(1, "cancelled")), "cancelled"),
        (history(epoch(1, 5), epoch(2, 6), end=manifest(1)), "detached"),
    ],
)
def test_the_archive_tells_a_sessions_state(told: History, state: str) -> None:
    assert archived_state(told) is SessionState(state)
    assert archived_item(told).state == state


def test_a_row_holds_what_a_list_shows() -> None:
    row = item_of(RECORD, SessionState.LIVE, samples=5, finals=1, started_at="a", ended_at="b")
    assert (row.session_id, row.clinic_id, row.title, row.external_id) == ("s", "north", "T", "X")
    assert (row.state, row.samples, row.finals, row.started_at, row.ended_at) == ("live", 5, 1, "a", "b")
    assert (row.created_at, row.created_by, row.language) == (CREATED_AT, "dr.a", "ja-JP")


def test_a_row_from_the_archive_starts_with_the_first_speaker_and_ends_with_the_manifest() -> None:
    epochs = (epoch(1, 0, "2026-11-20T09:01:00Z"), epoch(2, 5, "2026-11-20T09:02:00Z"), epoch(3, 6))
    row = archived_item(history(*epochs, end=manifest(3)))
    assert (row.started_at, row.ended_at) == ("2026-11-20T09:02:00Z", "2026-11-20T09:30:00Z")
    assert (row.samples, row.finals) == (9, 2)
    reopened = archived_item(history(*epochs, epoch(4, 7), end=manifest(3)))
    assert reopened.ended_at is None


def test_nothing_is_missing_of_a_session_that_goes_on() -> None:
    kept = coverage_so_far(True, 100, Ranges([(0, 50), (90, 200)]))
    assert wire_coverage(kept) == {
        "archived": [(0, 100)],
        "live": [(0, 50), (90, 100)],
        "filled": [],
        "untranscribed": [(50, 90)],
        "missing": [],
    }
    assert wire_coverage(coverage_so_far(False, 100, Ranges([(0, 50)])))["archived"] == []
    assert wire_coverage(coverage_so_far(True, 0, Ranges()))["archived"] == []
    assert coverage_view(WIRE).archived == [(0, 9)]


def test_a_final_is_shown_with_its_words() -> None:
    (committed,) = finals(3, 3)
    view = final_view(committed)
    assert (view.seq, view.id, view.start, view.end, view.text) == (3, "u3", 200, 250, "w3")
    assert [(w.text, w.start, w.end, w.confidence) for w in view.words] == [("w3", 200, 250, 0.9)]


def test_the_last_message_says_what_the_manifest_says() -> None:
    message = completed_message(manifest(1))
    assert (message.session_id, message.samples, message.finals, message.audio_sha256) == ("s", 9, 2, "ab")
    assert message.coverage == WIRE
