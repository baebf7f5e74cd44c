"""Events as observers get them: one JSON object each, told apart by ``type``. All positions are samples at 16 kHz.

``cursor`` names an event's place in the clinic's log, ``prev`` that of the event which this observer was given before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from app.events.model import FINAL, LIFE, NOTICE, REWOUND, Cursor, LivePartial, LogEvent
from audio.transcript import CommittedFinal, Partial, Word


class Subscribed(msgspec.Struct, frozen=True, tag="subscribed"):
    """Once and first: what comes after ``cursor`` follows."""

    cursor: str


class ObservedPartial(msgspec.Struct, frozen=True, tag="partial", omit_defaults=True, rename="camel"):
    """A result that may still change; replaces the earlier partial of the same ``id`` in that session."""

    session_id: str
    id: str
    start: int
    end: int
    text: str
    words: tuple[Word, ...] = ()
    language: str | None = None


class ObservedFinal(msgspec.Struct, frozen=True, tag="final", rename="camel"):
    """A result that will not change; (``sessionId``, ``seq``) identifies it for good."""

    session_id: str
    cursor: str
    prev: str
    seq: int
    id: str
    start: int
    end: int
    text: str
    words: tuple[Word, ...]
    language: str


class ObservedNotice(
    msgspec.Struct,
    frozen=True,
    tag="notice",
    omit_defaults=True,
    rename={"session_id": "sessionId", "start": "from", "end": "to"},
):
    """Something to know. Of no session, and without a cursor, when it is about the events themselves."""

    code: str
    message: str
    session_id: str | None = None
    cursor: str | None = None
    prev: str | None = None
    start: int | None = None
    end: int | None = None
    seq: int | None = None


class _NoticeBody(msgspec.Struct, rename={"start": "from", "end": "to"}):
    code: str
    message: str
    start: int | None = None
    end: int | None = None
    seq: int | None = None


Body = CommittedFinal | _NoticeBody | dict[str, Any] | None

_encode = msgspec.json.Encoder().encode
_final = msgspec.json.Decoder(CommittedFinal)
_notice = msgspec.json.Decoder(_NoticeBody)
_fields = msgspec.json.Decoder(dict[str, Any])
_partial = msgspec.json.Decoder(Partial)

_DECODERS: Final[Mapping[str, Callable[[bytes], Body]]] = {FINAL: _final.decode, NOTICE: _notice.decode}

_REWOUND_MESSAGE: Final = (
    "finals after this seq were lost with the log that held them; those that follow replace them"
)


class Unreadable(Exception):
    """What came from the log says nothing to this version. The text holds nothing of it but its kind."""


class Item:
    """An event of the log, opened once for all who get it; its text is made once for all whose ``prev`` is the same.

    Args:
        heard: when this process had it, in seconds of its monotonic clock.
    """

    __slots__ = ("_body", "_texts", "event", "heard")

    def __init__(self, event: LogEvent, body: Body, heard: float) -> None:
        self.event, self.heard = event, heard
        self._body = body
        self._texts: dict[Cursor, str] = {}

    @property
    def result_id(self) -> str | None:
        """The result that a final settles."""
        return self._body.final.id if isinstance(self._body, CommittedFinal) else None

    def text(self, prev: Cursor) -> str:
        """The text frame for an observer whose last event was ``prev``."""
        text = self._texts.get(prev)
        if text is None:
            text = self._texts[prev] = _encode(self._message(str(prev))).decode()
        return text

    def _message(self, prev: str) -> object:
        event, body, cursor = self.event, self._body, str(self.event.cursor)
        if isinstance(body, CommittedFinal):
            fields = msgspec.structs.asdict(body.final)
            return ObservedFinal(event.session_id, cursor, prev, body.seq, **fields)
        if body is None:
            body = _NoticeBody("finals_rewound", _REWOUND_MESSAGE, seq=event.seq)
        if isinstance(body, _NoticeBody):
            return ObservedNotice(
                body.code, body.message, event.session_id, cursor, prev, body.start, body.end, body.seq
            )
        at = datetime.fromtimestamp(event.cursor.ms / 1000, UTC).isoformat(timespec="milliseconds")
        return {
            **body,
            "type": event.kind,
            "sessionId": event.session_id,
            "cursor": cursor,
            "prev": prev,
            "at": at.replace("+00:00", "Z"),
        }


class PartialItem:
    """A partial, opened and written once for all who get it."""

    __slots__ = ("epoch", "result_id", "session_id", "text")

    def __init__(self, session_id: str, epoch: int, partial: Partial) -> None:
        self.session_id, self.epoch, self.result_id = session_id, epoch, partial.id
        self.text = _encode(ObservedPartial(session_id, **msgspec.structs.asdict(partial))).decode()


def open_event(event: LogEvent, heard: float) -> Item:
    """What an entry says; ``heard`` as for Item.

    Raises:
        Unreadable: it did not open, or is of a kind or form that this version does not know.
    """
    kind = event.kind
    if kind == REWOUND:
        return Item(event, None, heard)
    decode = _DECODERS.get(kind, _fields.decode if kind.startswith(LIFE) else None)
    if decode is None:
        raise Unreadable(f"an event of a kind that is not known, {kind[:40]!r}")
    try:
        return Item(event, decode(event.body), heard)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unreadable(f"an event, {kind[:40]!r}") from None


def open_partial(partial: LivePartial) -> PartialItem:
    """What a partial says.

    Raises:
        Unreadable: as above.
    """
    try:
        return PartialItem(partial.session_id, partial.epoch, _partial.decode(partial.body))
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise Unreadable("a partial") from None


def subscribed_text(cursor: Cursor) -> str:
    """The first text frame."""
    return _encode(Subscribed(str(cursor))).decode()


def notice_text(code: str, message: str) -> str:
    """A notice about the events themselves."""
    return _encode(ObservedNotice(code, message)).decode()


def rewound_text(session_id: str, seq: int) -> str:
    """The notice that withdraws a session's finals after ``seq``, of which the log itself says nothing."""
    return _encode(ObservedNotice("finals_rewound", _REWOUND_MESSAGE, session_id, seq=seq)).decode()
