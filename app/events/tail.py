"""What is new in a clinic's log, from its channel and, wherever that has a gap, from the log itself. Pure.

A channel forgets whom it did not reach. So an event heard is taken only where it follows on the last one taken; anything
else means that the log is to be read. What is heard during a read is not kept: the log has it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from app.events.model import START, Bounds, Cursor, LogEvent

RECENT_MAX: Final = 1_000
"""Cursors remembered for finding the way back after the log lost its end."""

_ANYWHERE: Final = Cursor(2**64, 0)


class LogExpired(Exception):
    """The log no longer holds what came next."""


class Tail:
    """Each event of the log once and in order, from where the first read finds the log's end.

    A read is ``begin`` with fresh bounds, then ``take`` for each page after ``last``, until it returns False.
    """

    def __init__(self) -> None:
        self.last = START
        """The last event taken; before the first read it says nothing."""
        self.behind = True
        """Whether the log must be read."""
        self._begun = False
        self._recent: deque[Cursor] = deque(maxlen=RECENT_MAX)
        self._beyond: Cursor | None = None

    def interrupted(self) -> None:
        """Something may have been missed."""
        self.behind, self._beyond = True, _ANYWHERE

    def heard(self, event: LogEvent) -> bool:
        """Whether ``event`` is the next one. Otherwise it is known, or ``behind`` is set."""
        if self.behind:
            self._beyond = max(self._beyond or event.cursor, event.cursor)
            return False
        if event.cursor <= self.last:
            return False
        if event.prev > self.last:
            self.interrupted()
            return False
        # A ``prev`` before ``last``: the log lost its end in a failover, and goes on from there.
        self._note(event.cursor)
        return True

    def begin(self, bounds: Bounds) -> bool:
        """A read begins. True: the log's end lies before ``last``, which was set back: it lost what came after."""
        self._beyond = None
        if not self._begun:
            self.last, self._begun = bounds.newest, True
        elif bounds.newest < self.last:
            # Its entries may since have taken places that lie between those which were lost.
            while self._recent and self._recent[-1] > bounds.newest:
                self._recent.pop()
            self.last = self._recent[-1] if self._recent else bounds.newest
            return True
        return False

    def take(self, page: Sequence[LogEvent], *, full: bool) -> bool:
        """A page after ``last`` was read, ``full`` when there may be more. Whether to read on.

        Raises:
            LogExpired: something between ``last`` and the page is gone; ``last`` is where the page begins.
        """
        if page and page[0].prev > self.last:
            self.last = page[0].prev
            self._recent.clear()
            raise LogExpired
        for event in page:
            self._note(event.cursor)
        if full:
            return True
        # Heard since the page before, and not in this one.
        self.behind = self._beyond is not None and self._beyond > self.last
        self._beyond = None
        return self.behind

    def _note(self, cursor: Cursor) -> None:
        self.last = cursor
        self._recent.append(cursor)
