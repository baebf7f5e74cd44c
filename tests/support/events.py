"""Events for tests of the readers' side, and what observers make of what they are sent."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from app.events.model import Cursor, LivePartial, LogEvent
from app.events.wire import Item, PartialItem, open_event, open_partial
from audio.transcript import CommittedFinal, Final, Partial, Word

HERE = "01890a5d-ac96-774b-bcce-b302099a8057"
BESIDE = "01890a5d-ac96-774b-bcce-b302099a8058"


def committed(seq: int, epoch: int = 1, text: str = "headache") -> CommittedFinal:
    return CommittedFinal(
        seq,
        epoch,
        Final(
            f"r{seq}", seq * 100, seq * 100 + 50, text, (Word(text, seq * 100, seq * 100 + 50, 0.5),), "en-US"
        ),
    )


def final_event(at: int, prev: int, seq: int, session: str = HERE, epoch: int = 1) -> LogEvent:
    body = msgspec.json.encode(committed(seq, epoch))
    return LogEvent(Cursor(at, 0), Cursor(prev, 0), session, "final", seq, epoch, body)


def life_event(at: int, prev: int, state: str = "live", session: str = HERE) -> LogEvent:
    return LogEvent(Cursor(at, 0), Cursor(prev, 0), session, f"session.{state}", 0, 0, b'{"samples":7}')


def rewound_event(at: int, prev: int, seq: int, session: str = HERE, epoch: int = 2) -> LogEvent:
    return LogEvent(Cursor(at, 0), Cursor(prev, 0), session, "rewound", seq, epoch, b"")


def item(event: LogEvent, heard: float = 0.0) -> Item:
    return open_event(event, heard)


def partial(result_id: str, text: str = "head", session: str = HERE, epoch: int = 1) -> PartialItem:
    return open_partial(live_partial(result_id, text, session, epoch))


def live_partial(result_id: str, text: str = "head", session: str = HERE, epoch: int = 1) -> LivePartial:
    return LivePartial(session, epoch, msgspec.json.encode(Partial(result_id, 0, 50, text)))


def messages(texts: list[str]) -> list[dict[str, Any]]:
    return [json.loads(text) for text in texts]
