"""The port to the clinic's event log: where a final is committed and from where events spread.

The log makes things quick and shared; it may be lost, and the archive then says what happened.
What was said is sealed before it goes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

from audio.transcript import CommittedFinal
from tenants.terms import SessionRef


class LogUnavailable(Exception):
    """The log did not answer in time. What was asked may have happened all the same."""


class CommitOutcome(Enum):
    """What became of a commit."""

    COMMITTED = "committed"
    """Appended now, or found appended by the same epoch (a repeat whose first answer was lost)."""

    STALE = "stale"
    """A newer epoch owns the session: this owner is fenced."""

    UNKNOWN = "unknown"
    """The log knows nothing of the session, or another ``seq`` (it was emptied): announce, then commit again."""


class EventLog(Protocol):
    """Every call gives up after the adapter's time limit (100 ms for ``commit``) with LogUnavailable."""

    async def announce(self, ref: SessionRef, epoch: int, seq: int, task: str) -> list[CommittedFinal] | None:
        """Say who owns the session, in one step: from here on no older epoch can commit.

        ``seq`` is the last final that the archive tells of. Returns the finals after it that the log holds
        without a gap (the log's ``seq`` is then the last of these, and anything else pending is dropped), or
        None, changing nothing, when the log knows a newer epoch.
        """

    async def commit(self, ref: SessionRef, epoch: int, finals: Sequence[CommittedFinal]) -> CommitOutcome:
        """Append finals with consecutive ``seq`` in one step, provided ``epoch`` owns the session and they follow on."""

    async def pending(self, ref: SessionRef) -> list[CommittedFinal]:
        """Finals committed here and not yet known to be in the archive, in order of ``seq``."""

    async def archived(self, ref: SessionRef, epoch: int, seq: int) -> None:
        """Finals up to ``seq`` are in the archive: ``pending`` need not keep them. Only the owner's word counts."""

    async def append(self, ref: SessionRef, kind: str, fields: dict[str, object]) -> None:
        """Append an event of the session's life (``session.created`` ...) for observers."""
