"""Cursors, and the events of a clinic as the log keeps them. Plain values: no loop, no Redis."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import msgspec

_CURSOR: Final = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")
_PART_MAX: Final = 2**64 - 1

FINAL: Final = "final"
NOTICE: Final = "notice"
REWOUND: Final = "rewound"
PARTIAL: Final = "partial"
LIFE: Final = "session."
"""What the kinds of a session's life begin with: ``session.created`` ..."""


class Cursor(NamedTuple):
    """An event's place in its clinic's log: the id of a Redis stream's entry, hence ordered as the log is.

    ``ms`` is the log's own Unix time in milliseconds; ``n`` counts within one.
    """

    ms: int
    n: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.n}"

    @classmethod
    def parse(cls, text: str) -> Cursor:
        """The cursor that ``text`` writes.

        Raises:
            ValueError: it writes none.
        """
        found = _CURSOR.fullmatch(text)
        if found is None:
            raise ValueError("a cursor is two whole numbers with a dash between")
        ms, n = int(found[1]), int(found[2])
        if max(ms, n) > _PART_MAX:
            raise ValueError("a cursor's numbers have 64 bits")
        return cls(ms, n)


START: Final = Cursor(0, 0)
"""Before the first event that a log ever had."""


class LogEvent(msgspec.Struct, frozen=True):
    """An entry of the log. ``prev`` is the entry before it, START for the first of a log's life.

    ``kind`` is ``final``, ``notice``, ``rewound`` (``seq`` is then the last final that still holds) or begins with
    ``session.``. ``seq`` and ``epoch`` are 0 where they say nothing. ``body`` is JSON: a CommittedFinal for a ``final``, else
    an object; empty for a ``rewound``, and where what was sealed did not open.
    """

    cursor: Cursor
    prev: Cursor
    session_id: str
    kind: str
    seq: int
    epoch: int
    body: bytes


class LivePartial(msgspec.Struct, frozen=True):
    """A partial as it is published: it is in no log. ``body`` is a ``audio.transcript.Partial`` as JSON."""

    session_id: str
    epoch: int
    body: bytes


class Bounds(msgspec.Struct, frozen=True):
    """What a log still holds: ``oldest`` to ``newest``; ``before`` is the ``prev`` of the oldest.

    Of a log without entries all three are START.
    """

    before: Cursor = START
    oldest: Cursor = START
    newest: Cursor = START

    def holds(self, cursor: Cursor) -> bool:
        """Whether everything that came after ``cursor`` is still there.

        A log that was emptied begins anew with a ``before`` of START: what lay between an older cursor and its
        oldest entry nobody knows.
        """
        if cursor in (START, self.newest):
            return True
        return self.newest != START and (self.oldest <= cursor or START < self.before <= cursor)
