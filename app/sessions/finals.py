"""The finals of a session as its owner knows them: numbered, committed, archived."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final as Constant

from audio.transcript import CommittedFinal, Final

RECENT_FINALS: Constant = 256
"""Archived finals kept in memory for a speaker that resumes; older ones are read from the archive."""


class FinalsBook:
    """Three marks that never fall: ``archived`` and ``committed`` are each at most ``numbered``.

    Numbered finals have their ``seq``; committed ones may be told; archived ones are carried by an object. A final
    may be archived before it is committed: that is how it is committed while the log is away.

    Args:
        seq: the last final before this owner.
        recent: finals up to ``seq``, in order and without a gap, as far as they are known.
    """

    def __init__(self, *, epoch: int, seq: int, recent: Sequence[CommittedFinal] = ()) -> None:
        self._epoch = epoch
        self._kept: deque[CommittedFinal] = deque(recent)
        self._base = seq - len(recent)
        self.committed = seq
        self.archived = seq
        self._rewound: int | None = None

    @property
    def oldest(self) -> int:
        """Finals after this one are in memory."""
        return self._base

    @property
    def numbered(self) -> int:
        """The last ``seq`` given."""
        return self._base + len(self._kept)

    def number(self, finals: Sequence[Final]) -> list[CommittedFinal]:
        """``finals`` with the next numbers, not kept yet."""
        return [CommittedFinal(self.numbered + n, self._epoch, f) for n, f in enumerate(finals, 1)]

    def keep(self, finals: Sequence[CommittedFinal]) -> None:
        """Keep numbered finals, so that the next segment carries them. They must follow on."""
        if finals and finals[0].seq != self.numbered + 1:
            raise ValueError(f"final {finals[0].seq} does not follow {self.numbered}")
        self._kept.extend(finals)

    def mark_committed(self, seq: int) -> None:
        """Finals up to ``seq`` may be told."""
        self.committed = max(self.committed, seq)

    def mark_archived(self, seq: int) -> None:
        """Finals up to ``seq`` are durable; of these only the newest stay in memory."""
        self.archived = max(self.archived, seq)
        while len(self._kept) > RECENT_FINALS and self._base < min(self.archived, self.committed):
            self._kept.popleft()
            self._base += 1

    def rewind(self, after: int) -> int:
        """The last final that holds for a client which has those up to ``after``.

        Once finals were lost, whoever comes with more than what was left then may hold them still: the answer before
        may not have reached it.
        """
        if after > self.committed and self._rewound is None:
            self._rewound = self.committed
        return after if self._rewound is None else min(after, self._rewound)

    def unarchived(self) -> list[CommittedFinal]:
        """Finals that no object carries yet, in order."""
        return list(islice(self._kept, max(0, self.archived - self._base), None))

    def since(self, seq: int) -> list[CommittedFinal] | None:
        """Committed finals after ``seq``, or None where they reach further back than memory does."""
        if seq < self._base:
            return None
        return list(islice(self._kept, seq - self._base, max(0, self.committed - self._base)))
