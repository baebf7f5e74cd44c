"""What waits to be sent to one observer. Pure: events in, text frames out, bounded, each event at most once."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Final

from app.events.model import FINAL, LIFE, REWOUND, START, Cursor, LogEvent
from app.events.wire import Item, PartialItem, notice_text, rewound_text

WAITING_MAX: Final = 1_000
"""Events kept for an observer that does not read; one more ends the connection. They are shared with all others."""

PARTIALS_MAX: Final = 200
"""Partials kept, one for each result; the oldest goes first."""

ANSWERS_MAX: Final = 64
MARKS_MAX: Final = 1_000
"""Sessions whose last final is remembered, those that spoke last."""


class Ending(Enum):
    """Why an observer is sent away."""

    TOO_SLOW = "too slow"
    EXPIRED = "expired"
    RESTARTING = "restarting"


class Outbox:
    """One observer's.

    Args:
        session_id: the only session to tell of; None for all of the clinic.
        start: what comes after it is wanted.
        live: False when the log is to be read first: nothing but notices is taken until ``arm``.
        wake: called when there is something to take; idempotent and cheap.
    """

    def __init__(
        self, session_id: str | None, start: Cursor, *, live: bool, wake: Callable[[], None]
    ) -> None:
        self.session_id = session_id
        self.last = start
        """The last event looked at; what is at or before it was told, or is of another session."""
        self.live = live
        self.ending: Ending | None = None
        self._armed = live
        self._given = start
        # What it may have from another connection; and whether the log has lost some of that.
        self._had, self._had_more = (START if live else start), False
        self._answers: deque[str] = deque(maxlen=ANSWERS_MAX)
        self._queue: deque[Item | str] = deque()
        self._partials: OrderedDict[tuple[str, str], PartialItem] = OrderedDict()
        self._marks: OrderedDict[str, tuple[int, int]] = OrderedDict()
        self._wake = wake

    @property
    def waiting(self) -> bool:
        """Whether ``take`` has something to give, or the connection is to end."""
        return bool(self._answers or self.ending or (self.live and (self._queue or self._partials)))

    @property
    def crowded(self) -> bool:
        """Whether half the room is taken."""
        return len(self._queue) > WAITING_MAX // 2

    @property
    def oldest(self) -> float | None:
        """When the event that has waited longest was heard; None where none waits."""
        return next((entry.heard for entry in self._queue if isinstance(entry, Item)), None)

    def offer(self, item: Item) -> bool:
        """An event of the log, in its order. False: there is no room, and the observer is sent away."""
        if not self._armed or self.ending is not None:
            return True
        if not self._wants(item.event.session_id):
            self._look_back(item.event)
            return True
        self._settle(item)
        if len(self._queue) >= WAITING_MAX:
            self._queue.clear()
            self._partials.clear()
            self.answer(notice_text("events_degraded", "too slow to follow; come back with the last cursor"))
            self.end(Ending.TOO_SLOW)
            return False
        self._queue.append(item)
        self._wake()
        return True

    def offer_partial(self, partial: PartialItem) -> bool:
        """A partial, in place of the one of the same result that still waits. False: an older one was let go for it."""
        if not self.live or self.ending is not None or not self._wants(partial.session_id):
            return True
        key = (partial.session_id, partial.result_id)
        self._partials.pop(key, None)
        self._partials[key] = partial
        self._wake()
        if len(self._partials) <= PARTIALS_MAX:
            return True
        self._partials.popitem(last=False)
        return False

    def tell(self, notice: str) -> None:
        """A notice about the events themselves, in its place among them; during a replay, at once."""
        if self.ending is not None:
            return
        if not self.live:
            self.answer(notice)
        elif len(self._queue) < WAITING_MAX:
            self._queue.append(notice)
            self._wake()

    def answer(self, text: str) -> None:
        """A text frame that has no place among the events; the oldest of too many is let go."""
        self._answers.append(text)
        self._wake()

    def end(self, ending: Ending) -> None:
        """Send the observer away after what waits; the first reason stands."""
        self.ending = self.ending or ending
        self._wake()

    def arm(self) -> None:
        """The log is about to be read on: keep what comes from here on, and forget what came before."""
        self._queue.clear()
        self._armed = True

    def replay(self, page: Iterable[Item], *, full: bool) -> list[str]:
        """The text frames of a page of the log after ``last``. Unless it is ``full``, what was kept meanwhile follows it."""
        texts = self._texts(page)
        if full:
            self._armed = False
        else:
            self.live = True
        return texts

    def pass_over(self, last: Cursor) -> None:
        """Whatever is at or before ``last`` was looked at, also what says nothing to this version."""
        self.last = max(self.last, last)

    def set_back(self, last: Cursor) -> None:
        """The log lost what came after ``last``; other events may take the places of those."""
        self.last, self._given = min(self.last, last), min(self._given, last)

    def take(self) -> list[str]:
        """Everything that waits, in the order to send: answers, events and notices, partials."""
        texts = list(self._answers)
        self._answers.clear()
        if not self.live:
            return texts
        texts += self._texts(self._queue)
        texts += [partial.text for partial in self._partials.values()]
        self._queue.clear()
        self._partials.clear()
        return texts

    def _texts(self, entries: Iterable[Item | str]) -> list[str]:
        texts: list[str] = []
        for entry in entries:
            texts += [entry] if isinstance(entry, str) else self._texts_of(entry)
        return texts

    def _texts_of(self, item: Item) -> list[str]:
        event = item.event
        self._look_back(event)
        if event.cursor <= self.last:
            return []
        self.last = event.cursor
        if not self._wants(event.session_id):
            return []
        withdrawn = self._withdraws(item)
        if not withdrawn and not self._is_new(item):
            return []
        text = item.text(self._given)
        self._given = event.cursor
        return [withdrawn, text] if withdrawn else [text]

    def _wants(self, session_id: str) -> bool:
        return self.session_id in (None, session_id)

    def _is_new(self, item: Item) -> bool:
        event = item.event
        if event.kind not in (FINAL, REWOUND):
            return True
        known, epoch = self._marks.get(event.session_id, (None, 0))
        if event.kind == FINAL:
            # An owner commits again what Redis had lost and this observer had got.
            is_new = known is None or event.seq > known
        else:
            # Whoever has a final of this owner has none of an older one that it withdraws.
            is_new = known is None or (event.seq < known and event.epoch > epoch)
        if is_new and (event.kind == FINAL or known is not None):
            self._mark(event.session_id, event.seq, event.epoch)
        return is_new

    def _look_back(self, event: LogEvent) -> None:
        # Events follow one another: what lay between ``prev`` and the last one that the observer has is gone.
        self._had_more |= event.prev < self._had < event.cursor

    def _withdraws(self, item: Item) -> str | None:
        """What to say before a final that takes the place of another's: Redis lost what it had told, and its owner is dead.

        Of a session of which this connection has told nothing, an observer who was told what the log lost may have any final.
        """
        event = item.event
        if event.kind != FINAL:
            return None
        if event.session_id in self._marks:
            known, epoch = self._marks[event.session_id]
            replaces = event.seq <= known and event.epoch > epoch
        else:
            replaces = self._had_more
        if not replaces:
            return None
        self._mark(event.session_id, event.seq, event.epoch)
        return rewound_text(event.session_id, event.seq - 1)

    def _mark(self, session_id: str, seq: int, epoch: int) -> None:
        self._marks[session_id] = seq, epoch
        self._marks.move_to_end(session_id)
        if len(self._marks) > MARKS_MAX:
            self._marks.popitem(last=False)

    def _settle(self, item: Item) -> None:
        # A partial never follows the final of its result, nor the end of its session.
        session_id, result_id = item.event.session_id, item.result_id
        if result_id is not None:
            self._partials.pop((session_id, result_id), None)
        elif item.event.kind.startswith(LIFE):
            for key in [key for key in self._partials if key[0] == session_id]:
                del self._partials[key]
