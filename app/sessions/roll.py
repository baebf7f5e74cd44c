"""Which tasks live, judged by their records as they are read time after time. Pure.

A task is dead when its record was seen unchanged for a whole window. Only time in which this task itself was looking counts:
one that was stopped for an hour has not seen the others stand still for an hour. No clock of another machine is asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from app.archive.tasks import TaskRecord, parse_name
from tenants.terms import SessionRef

BEATS_IN_WINDOW: Final = 8
BEAT_SECONDS_MAX: Final = 15.0
SUSPECT_SHARE: Final = 1 / 4
"""Of the window: a task that was silent for so long is not relied on any more. Twice the time between two beats."""


def beat_seconds(window: float) -> float:
    """How often a task tells that it lives."""
    return min(window / BEATS_IN_WINDOW, BEAT_SECONDS_MAX)


class Standing(Enum):
    """What is known of the task that owns a session."""

    ALIVE = "alive"
    UNSURE = "unsure"
    """It has not been seen to change yet, or not for some time."""

    DEAD = "dead"


@dataclass
class _Seen:
    record: TaskRecord
    owned: frozenset[SessionRef]
    watched: frozenset[SessionRef]
    changed_at: float
    """When it was seen to change, or for the first time."""

    alive: bool
    """It was seen to change, or to appear."""

    silent: float = 0.0
    """Seconds for which it was seen unchanged."""

    @classmethod
    def of(cls, record: TaskRecord, now: float, *, alive: bool) -> _Seen:
        return cls(record, _refs(record.sessions), _refs(record.watched), now, alive)


class Roll:
    """The other tasks. ``window``: the resume window, in seconds."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._seen: dict[str, _Seen] = {}
        self._owners: dict[SessionRef, _Seen] = {}
        self._looked_at: float | None = None

    def look(self, now: float, found: Mapping[str, TaskRecord]) -> None:
        """Take in what is there now, by key."""
        first = self._looked_at is None
        passed = 0.0 if self._looked_at is None else now - self._looked_at
        self._looked_at = now
        counted = min(passed, 2 * beat_seconds(self._window))
        self._seen = {
            key: self._again(key, record, counted) or _Seen.of(record, now, alive=not first)
            for key, record in found.items()
        }
        self._owners = {}
        for seen in sorted(self._seen.values(), key=lambda s: (s.alive, -s.silent)):
            self._owners.update(dict.fromkeys(seen.owned, seen))

    def forget(self, key: str) -> None:
        """The record under ``key`` was taken away."""
        gone = self._seen.pop(key, None)
        self._owners = {ref: seen for ref, seen in self._owners.items() if seen is not gone}

    def standing(self, ref: SessionRef) -> Standing | None:
        """How the task stands that owns ``ref``, the liveliest where several say so; None where none does."""
        seen = self._owners.get(ref)
        return None if seen is None else self._judge(seen)

    def patience(self, ref: SessionRef) -> float:
        """Seconds until the owner of ``ref`` is dead if it stays silent."""
        seen = self._owners.get(ref)
        return 0.0 if seen is None else max(0.0, self._window - seen.silent)

    def suspects(self) -> dict[SessionRef, float]:
        """All sessions of tasks that may be dead, and when the task was last seen to say so."""
        found: dict[SessionRef, float] = {}
        for seen in sorted(self._seen.values(), key=lambda s: s.changed_at):
            if seen.silent >= SUSPECT_SHARE * self._window:
                found.update(dict.fromkeys(seen.owned | seen.watched, seen.changed_at))
        return found

    def dead(self) -> dict[str, dict[SessionRef, float]]:
        """The keys of tasks that are dead; for each its sessions, and when it was last seen to say so."""
        return {
            key: dict.fromkeys(seen.owned | seen.watched, seen.changed_at)
            for key, seen in self._seen.items()
            if self._judge(seen) is Standing.DEAD
        }

    def _judge(self, seen: _Seen) -> Standing:
        if seen.silent >= self._window:
            return Standing.DEAD
        return (
            Standing.ALIVE if seen.alive and seen.silent < SUSPECT_SHARE * self._window else Standing.UNSURE
        )

    def _again(self, key: str, record: TaskRecord, passed: float) -> _Seen | None:
        known = self._seen.get(key)
        if known is None or known.record != record:
            return None
        known.silent += passed
        return known


def _refs(names: Iterable[str]) -> frozenset[SessionRef]:
    return frozenset(ref for name in names if (ref := parse_name(name)) is not None)
