"""Sessions that nobody owns: finished with what is durable when their speaker does not come back, or cancelled."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import Final

from app.archive.finisher import Finish, FinishLost, clean_up, finish, is_cleaned_up
from app.archive.history import History
from app.archive.reader import load_history, read_finals
from app.archive.records import Manifest, RecordCorrupt
from app.archive.store import ObjectCorrupt, StoreError
from app.sessions.deps import SessionDeps, unix_time
from app.sessions.errors import SessionNotFound, Superseded
from app.sessions.herald import Herald
from app.sessions.ownership import Claimant, claim
from app.sessions.views import archived_item
from app.telemetry.logs import logger
from audio.codec import CodecError
from audio.coverage import Ranges
from tenants.terms import SessionRef

CHECK_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 5.0
STOPPED: Final = "stopped"

_log = logger(__name__)


@dataclass(frozen=True)
class _Watch:
    deadline: float
    reason: str
    mark: tuple[object, ...] | None
    epoch: int | None = None

    def is_anothers(self, history: History, task: str) -> bool:
        """Whether another task has claimed the session since."""
        known = self.epoch
        return known is not None and any(e.epoch > known and e.task != task for e in history.epochs)


class Orphans:
    """Watches sessions without an owner until their resume window has passed. ``run`` is owned by the manager."""

    def __init__(self, deps: SessionDeps, herald: Herald) -> None:
        self._deps, self._herald = deps, herald
        self._watched: dict[SessionRef, _Watch] = {}

    def watch(
        self, ref: SessionRef, seconds: float, *, history: History | None = None, epoch: int | None = None
    ) -> None:
        """Finish ``ref`` after ``seconds``, unless it is dropped or somebody writes to it meanwhile.

        Somebody wrote if things are not as in ``history``. Where ``epoch`` is given, a newer one of another task takes the
        session off this task's hands.
        """
        mark = _mark(history) if history is not None else None
        self._watched[ref] = _Watch(self._deps.clock() + seconds, "abandoned", mark, epoch)

    def watch_new(self, ref: SessionRef, seconds: float, *, history: History) -> None:
        """The same, but for a session that is watched already nothing changes."""
        if ref not in self._watched:
            self.watch(ref, seconds, history=history)

    def stop(self, ref: SessionRef) -> None:
        """Finish ``ref`` for good, as soon as may be."""
        self._watched[ref] = _Watch(self._deps.clock(), STOPPED, None)

    def drop(self, ref: SessionRef) -> None:
        """Somebody owns ``ref``."""
        self._watched.pop(ref, None)

    def __len__(self) -> int:
        """Sessions watched."""
        return len(self._watched)

    async def run(self) -> None:
        """Finish what is due, one after the other, until cancelled."""
        while True:
            now = self._deps.clock()
            for ref, watch in [(r, w) for r, w in self._watched.items() if w.deadline <= now]:
                if self._watched.get(ref) is watch:
                    await self._settle(ref, watch)
            await asyncio.sleep(CHECK_SECONDS)

    async def _settle(self, ref: SessionRef, watch: _Watch) -> None:
        limits = self._deps.limits
        try:
            history = await load_history(self._deps.store, ref)
            if self._watched.get(ref) is not watch:
                return
            if history is None or history.finished or watch.is_anothers(history, self._deps.task):
                await self._sweep(ref, history)
                self._forget(ref, watch)
            elif watch.mark is not None and _mark(history) != watch.mark:
                self.watch(ref, limits.resume_window_seconds, history=history)
            else:
                await self._finish(ref, history, watch)
        except (RecordCorrupt, ObjectCorrupt, CodecError) as damage:
            _log.error("orphan_damaged", sessionId=ref.session_id, key=getattr(damage, "key", None))
            self._forget(ref, watch)
        except StoreError as refusal:
            reason = getattr(refusal, "reason", type(refusal).__name__)
            _log.warning("orphan_delayed", sessionId=ref.session_id, reason=reason)
            if self._watched.get(ref) is watch:
                self._watched[ref] = replace(watch, deadline=self._deps.clock() + RETRY_SECONDS)
        except (Superseded, SessionNotFound, FinishLost):
            self._forget(ref, watch)

    async def _sweep(self, ref: SessionRef, history: History | None) -> None:
        # Whoever finished it may have died before the segments were gone.
        if history is None or history.manifest is None or not history.finished:
            return
        if not is_cleaned_up(history):
            await clean_up(self._deps.store, ref, history.manifest)

    async def _finish(self, ref: SessionRef, history: History, watch: _Watch) -> None:
        spoken = history.speaker_serial > 0
        age = self._deps.wall() - unix_time(history.session.created_at)
        if not spoken and watch.reason != STOPPED and age < self._deps.limits.created_seconds:
            self.watch(ref, self._deps.limits.created_seconds - age, history=history)
            return
        await self.finish_now(ref, watch.reason if spoken else "unspoken")
        self._forget(ref, watch)

    async def finish_now(self, ref: SessionRef, reason: str) -> Manifest:
        """Claim ``ref`` and finish it with what is durable.

        Raises:
            Superseded, FinishLost: somebody else has it.
            SessionNotFound, StoreError, RecordCorrupt: see there.
        """
        deps = self._deps
        won = await claim(deps.store, deps.log, ref, Claimant(deps.task, "finish", deps.now()))
        history = await load_history(deps.store, ref)
        if history is None:
            raise SessionNotFound
        manifest = await finish(
            deps.store,
            Finish(
                ref=ref,
                epoch=won.epoch,
                reason=reason,
                finals=await read_finals(deps.store, ref, history),
                live=Ranges.from_wire(history.live),
                now=deps.now(),
                samples=history.end,
                state="cancelled" if reason == "unspoken" else "completed",
            ),
        )
        _log.info("orphan_finished", sessionId=ref.session_id, epoch=won.epoch, reason=reason)
        finished = await load_history(deps.store, ref)
        if finished is not None and finished.finished:
            self._herald.tell(archived_item(finished))
        return manifest

    def _forget(self, ref: SessionRef, watch: _Watch) -> None:
        if self._watched.get(ref) is watch:
            del self._watched[ref]


def _mark(history: History) -> tuple[object, ...]:
    # What changes whenever an owner writes anything.
    return (
        history.listing.epochs,
        history.listing.segments[-1:],
        history.listing.finals[-1:],
        history.finished,
    )
