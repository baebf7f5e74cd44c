"""The port to the clinic's event log: where a final is committed and from where events spread.

The log makes things quick and shared; it may be lost, and the archive then says what happened.
What was said is sealed before it goes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Protocol

import msgspec

from audio.transcript import CommittedFinal, Partial
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


class Announced(msgspec.Struct, frozen=True):
    """What the log had of a session when its owner was announced.

    Attributes:
        held: finals after the announced ``seq`` that the log holds without a gap, in order.
        known: ``seq`` of the last final that the log had given to observers, before this call; None where it had given
            none (a new session, or the log was emptied or has forgotten it). Below the announced ``seq``, observers lack
            finals that the archive has: announce again from ``known`` (0 for None), and commit them.
        owner: the epoch that the log knew before this call, and to which what it told belongs; None where it knew none.
    """

    held: list[CommittedFinal]
    known: int | None
    owner: int | None = None


class EventLog(Protocol):
    """Every call gives up after the adapter's time limit (100 ms for ``commit``) with LogUnavailable."""

    async def announce(
        self, ref: SessionRef, epoch: int, seq: int, task: str, stands: int | None = None
    ) -> Announced | None:
        """Say who owns the session, in one step: from here on no older epoch can commit.

        ``seq`` is the last final that the archive tells of, or an earlier one when those after it are to be committed
        here again. The log's ``seq`` is then the last of those held, or ``seq``; whatever else was pending is dropped,
        and observers who were given more are told with a ``rewound`` event. So are those of a log that knows no owner, although the
        session had one before ``epoch``: of older owners' finals those up to ``stands`` count, by default all up to the log's ``seq``.
        None, changing nothing: the log knows a newer epoch.
        """

    async def commit(self, ref: SessionRef, epoch: int, finals: Sequence[CommittedFinal]) -> CommitOutcome:
        """Append finals with consecutive ``seq`` in one step, provided ``epoch`` owns the session and they follow on.

        They are of ``epoch``, or of older ones: an owner appends so what the archive has and the log has not.
        """

    async def pending(self, ref: SessionRef) -> list[CommittedFinal]:
        """Finals committed here and not yet known to be in the archive, in order of ``seq``."""

    async def archived(self, ref: SessionRef, epoch: int, seq: int) -> None:
        """Finals up to ``seq`` are in the archive: ``pending`` need not keep them. Only the owner's word counts."""

    async def append(self, ref: SessionRef, kind: str, fields: dict[str, object]) -> None:
        """Append an event of the session's life (``session.created`` ...) for observers."""


class Publisher(Protocol):
    """Where a session tells observers what nobody waits for. No call waits or fails."""

    def partial(self, ref: SessionRef, epoch: int, partial: Partial) -> None:
        """Publish a hypothesis; it is in no log. One that still waits here is replaced by a newer one of its ``id``."""

    def event(self, ref: SessionRef, kind: str, fields: dict[str, object]) -> None:
        """As ``EventLog.append``, once and as soon as may be; while the log is away it is lost."""


class OwnerBoard(Protocol):
    """Who owns which session, as far as the log knows. The archive has the last word."""

    async def epochs(self, refs: Sequence[SessionRef]) -> list[int | None]:
        """The newest epoch announced of each session, in order; None where the log knows nothing of it.

        Raises:
            LogUnavailable: see there.
        """
