"""This task's sign of life in the archive, and what it does about tasks that give none any more."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from app.archive.parallel import bounded_map
from app.archive.reader import load_history
from app.archive.records import RecordCorrupt
from app.archive.store import StoreError
from app.archive.tasks import OwnRecord, TaskRecord, name_of, read_tasks, task_key
from app.sessions.deps import SessionDeps
from app.sessions.orphans import Orphans
from app.sessions.roll import Roll, Standing, beat_seconds
from app.telemetry.logs import logger
from tenants.terms import SessionRef

CHANGED_SECONDS: Final = 1.0
"""A change of what this task has is told within so much."""

CALL_SECONDS: Final = 10.0
LAST_SECONDS: Final = 3.0
PARALLEL_READS: Final = 8

_Lists = tuple[tuple[str, ...], tuple[str, ...]]

_log = logger(__name__)


class Beats:
    """``run`` is owned by the manager, and ``last`` is called when it is over. ``owned`` says which sessions are this task's."""

    def __init__(
        self, deps: SessionDeps, roll: Roll, orphans: Orphans, owned: Callable[[], Iterable[SessionRef]]
    ) -> None:
        self._deps, self._roll, self._orphans, self._owned = deps, roll, orphans, owned
        self._every = beat_seconds(deps.limits.resume_window_seconds)
        self._key = task_key(deps.task, deps.boot)
        self._record = OwnRecord(deps.store, self._key)
        self._beat = 0
        self._told: _Lists = ((), ())
        self._told_at = deps.clock()

    async def run(self) -> None:
        """Tell and look until cancelled. An archive that is away delays both and nothing else."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._telling())
            group.create_task(self._looking())

    async def last(self) -> None:
        """Leave what is not finished to the others: the sessions that nobody has taken yet. Takes ``LAST_SECONDS`` at most."""
        try:
            async with asyncio.timeout(LAST_SECONDS):
                await self._look()
                left = [ref for ref in self._orphans.refs() if self._roll.standing(ref) is not Standing.ALIVE]
                await self._tell(((), _names(left)))
                # Now that it is written, there may be time to see which of them ended elsewhere.
                ended = await bounded_map(self._has_ended, left, limit=PARALLEL_READS)
                await self._tell(((), _names(ref for ref, over in zip(left, ended, strict=True) if not over)))
        except (StoreError, RecordCorrupt, TimeoutError) as failure:
            _log.warning("beat_delayed", reason=type(failure).__name__)

    async def _has_ended(self, ref: SessionRef) -> bool:
        history = await load_history(self._deps.store, ref)
        return history is None or history.finished

    async def _telling(self) -> None:
        while True:
            lists = (_names(self._owned()), _names(self._orphans.refs()))
            if lists != self._told or self._deps.clock() - self._told_at >= self._every:
                try:
                    async with asyncio.timeout(CALL_SECONDS):
                        await self._tell(lists)
                except (StoreError, TimeoutError) as failure:
                    _log.warning("beat_delayed", reason=type(failure).__name__)
            await asyncio.sleep(min(CHANGED_SECONDS, self._every))

    async def _tell(self, lists: _Lists) -> None:
        self._beat += 1
        if lists != ((), ()):
            await self._record.put(TaskRecord(self._deps.task, self._beat, *map(list, lists)))
        elif self._told != lists:
            # Who has nothing need not be known to live.
            await self._record.delete()
        self._told, self._told_at = lists, self._deps.clock()

    async def _looking(self) -> None:
        while True:
            try:
                async with asyncio.timeout(CALL_SECONDS):
                    await self._look()
                    await self._bury()
            except (StoreError, TimeoutError) as failure:
                _log.warning("tasks_unknown", reason=type(failure).__name__)
            self._take_over()
            # Tasks that look at the same moments would claim at the same moments.
            await asyncio.sleep(self._every * self._deps.rng.uniform(0.9, 1.1))

    async def _look(self) -> None:
        found = await read_tasks(self._deps.store, but=self._key)
        self._roll.look(self._deps.clock(), found)

    def _take_over(self) -> None:
        owned = set(self._owned())
        for ref, since in self._roll.suspects().items():
            if ref not in owned and self._roll.standing(ref) is not Standing.ALIVE:
                self._orphans.note(ref, since)

    async def _bury(self) -> None:
        for key, refs in self._roll.dead().items():
            if all(self._is_cared_for(ref, since) for ref, since in refs.items()):
                await self._deps.store.delete(key)
                self._roll.forget(key)
                _log.info("task_buried", key=key, sessions=len(refs))

    def _is_cared_for(self, ref: SessionRef, since: float) -> bool:
        """Whether ``ref`` is over, or owned by a task, this one included, whose record says so."""
        return (
            self._orphans.is_over(ref, since)
            or self._roll.standing(ref) is Standing.ALIVE
            or name_of(ref) in self._told[0]
        )


def _names(refs: Iterable[SessionRef]) -> tuple[str, ...]:
    return tuple(sorted(map(name_of, refs)))
