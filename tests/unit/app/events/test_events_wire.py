"""Events as they are written for observers."""

from __future__ import annotations

import json

import msgspec
import pytest

from app.events.model import Cursor, LivePartial, LogEvent
from app.events.wire import Unreadable, notice_text, open_event, open_partial, subscribed_text
from tests.support.events import HERE, final_event, item, partial, rewound_event

PREV = Cursor(4, 2)


def event(kind: str, body: bytes) -> LogEvent:
    return LogEvent(Cursor(1_700_000_000_123, 4), PREV, HERE, kind, 0, 0, body)


def test_a_final_has_the_fields_of_the_speakers() -> None:
    assert json.loads(item(final_event(5, 4, 3)).text(PREV)) == {
        "type": "final", "sessionId": HERE, "cursor": "5-0", "prev": "4-2", "seq": 3, "id": "r3", "start": 300, "end": 350,
        "text": "headache", "words": [{"text": "headache", "start": 300, "end": 350, "confidence": 0.5}], "language": "en-US",
    }  # fmt: skip


def test_a_partial_has_no_cursor() -> None:
    assert json.loads(partial("r1").text) == {
        "type": "partial", "sessionId": HERE, "id": "r1", "start": 0, "end": 50, "text": "head",
    }  # fmt: skip


def test_an_event_of_a_sessions_life_has_its_fields_and_its_time_and_none_can_be_forged() -> None:
    body = b'{"samples":7,"type":"final","cursor":"9-9","sessionId":"x"}'
    assert json.loads(open_event(event("session.completed", body), 0.0).text(PREV)) == {
        "type": "session.completed", "sessionId": HERE, "cursor": "1700000000123-4", "prev": "4-2",
        "at": "2023-11-14T22:13:20.123Z", "samples": 7,
    }  # fmt: skip


def test_notices_of_the_log_and_rewound_finals() -> None:
    body = b'{"code":"transcript_gap","message":"m","from":3,"to":9}'
    assert json.loads(open_event(event("notice", body), 0.0).text(PREV)) == {
        "type": "notice", "sessionId": HERE, "cursor": "1700000000123-4", "prev": "4-2",
        "code": "transcript_gap", "message": "m", "from": 3, "to": 9,
    }  # fmt: skip
    rewound = json.loads(item(rewound_event(5, 4, 0)).text(PREV))
    assert (rewound["type"], rewound["code"], rewound["seq"]) == ("notice", "finals_rewound", 0)
    assert rewound["message"]


def test_what_is_about_the_events_themselves_is_of_no_session() -> None:
    assert json.loads(subscribed_text(PREV)) == {"type": "subscribed", "cursor": "4-2"}
    assert json.loads(notice_text("c", "m")) == {"type": "notice", "code": "c", "message": "m"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("final", b""), ("final", b"{}"), ("final", b"\xff"), ("notice", b"[]"), ("session.live", b"headache"),
        ("later", b"{}"), ("partial", b"{}"),
    ],
)  # fmt: skip
def test_what_says_nothing_to_this_version_is_told_from_the_rest_without_a_word_of_it(
    kind: str, body: bytes
) -> None:
    with pytest.raises(Unreadable) as failed:
        open_event(event(kind, body), 0.0)
    assert "headache" not in str(failed.value)


def test_a_partial_of_another_form_is_unreadable() -> None:
    for body in (b"", b"{}", msgspec.json.encode({"id": 5})):
        with pytest.raises(Unreadable):
            open_partial(LivePartial(HERE, 1, body))
