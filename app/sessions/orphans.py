"""Sessions that nobody owns: finished with what is durable when their speaker does not come back, or cancelled."""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from app.archive.finisher import Finish, FinishLost, clean_up, finish, is_cleaned_up
from app.archive.history import History
from app.archive.reader import load_history, read_finals
from app.archive.records import Manifest, RecordCorrupt
from app.archive.store import ObjectCorrupt, StoreError
from app.events.log import LogUnavailable
from app.protocol.rest import SessionItem
from app.sessions.deps import SessionDeps, rfc3339, unix_time
from app.sessions.ending import Ending
from app.sessions.errors import SessionNotFound, Superseded
from app.sessions.finals import FinalsBook
from app.sessions.herald import Herald
from app.sessions.index import IndexUnavailable, SessionQuery
from app.sessions.ownership import Claim, Claimant, claim
from app.sessions.parts import log_tail
from app.sessions.roll import Roll, Standing
from app.sessions.views import archived_item
from app.telemetry.logs import logger
from audio.codec import CodecError
from audio.coverage import Ranges
from tenants.terms import SessionRef

CHECK_SECONDS: Final = 0.5
RETRY_SECONDS: Final = 5.0
JITTER_SHARE: Final = 1 / 32
"""Of the window: so far apart several tasks may find the same session due. Who comes second sees that it is taken."""

OVER_MAX: Final = 10_000
"""Sessions that are remembered to be over; one that was forgotten is looked at once more."""

_log = logger(__name__)


@dataclass(frozen=True)
class _Watch:
    """``mark``: how things stood in the archive when the time began to run; None where nobody else can have the session.

    ``new``: nothing is known yet but that its owner may be dead. ``epoch``: the last one that is this task's own.
    """

    deadline: float
    ending: Ending = Ending.ABANDONED
    mark: tuple[object, ...] | None = None
    epoch: int | None = None
    new: bool = False

    def has_moved(self, history: History, task: str) -> bool:
        """Whether somebody has written to the session since, or another task claimed it."""
        if self.mark is not None and self.mark != _mark(history):
            return True
        known = self.epoch
        return known is not None and any(e.epoch > known and e.task != task for e in history.epochs)


class Orphans:
    """Watches sessions without an owner until their resume window has passed. ``run`` is owned by the manager.

    One is finished only when neither its objects nor the record of its owner's task has changed for a whole window.
    """

    def __init__(self, deps: SessionDeps, herald: Herald, roll: Roll) -> None:
        self._deps, self._herald, self._roll = deps, herald, roll
        self._watched: dict[SessionRef, _Watch] = {}
        self._over: OrderedDict[SessionRef, float] = OrderedDict()

    def watch(
        self, ref: SessionRef, seconds: float, *, history: History | None = None, epoch: int | None = None
    ) -> None:
        """Finish ``ref`` after ``seconds``, unless it is dropped or somebody writes to it meanwhile.

        Somebody wrote if things are not as in ``history``. Where ``epoch`` is given, a newer one of another task gives the
        session another window.
        """
        mark = _mark(history) if history is not None else None
        self._watched[ref] = _Watch(self._deps.clock() + seconds, mark=mark, epoch=epoch)

    def watch_new(self, ref: SessionRef, seconds: float, *, history: History) -> None:
        """The same, but for a session that is watched already nothing changes."""
        if ref not in self._watched:
            self.watch(ref, seconds, history=history)

    def note(self, ref: SessionRef, since: float) -> None:
        """The task that had ``ref``, and said so at ``since``, may be dead: look at ``ref`` soon.

        One that is finished is swept then, any other has a whole window first. Nothing changes for a session that is
        watched, or was seen to be over after ``since``.
        """
        if ref not in self._watched and not self.is_over(ref, since):
            self._watched[ref] = _Watch(self._deps.clock(), new=True)

    def stop(self, ref: SessionRef) -> None:
        """Finish ``ref`` for good, as soon as may be."""
        self._watched[ref] = _Watch(self._deps.clock(), Ending.STOPPED)

    def drop(self, ref: SessionRef) -> None:
        """Somebody owns ``ref``."""
        self._watched.pop(ref, None)

    def refs(self) -> Iterable[SessionRef]:
        """Sessions watched."""
        return self._watched.keys()

    def is_over(self, ref: SessionRef, since: float) -> bool:
        """Whether ``ref`` was seen finished, gone, or damaged beyond finishing, at ``since`` or later."""
        return self._over.get(ref, -math.inf) >= since

    def __len__(self) -> int:
        """Sessions watched."""
        return len(self._watched)

    async def run(self) -> None:
        """Finish what is due, one after the other, until cancelled."""
        while True:
            now = self._deps.clock()
            for ref, watch in [(r, w) for r, w in self._watched.items() if w.deadline <= now]:
                if self._watched.get(ref) is watch and not self._is_anothers(ref, watch):
                    await self._settle(ref, watch)
            await asyncio.sleep(CHECK_SECONDS)

    def _is_anothers(self, ref: SessionRef, watch: _Watch) -> bool:
        # Who watches over the living task that has it, is the roll.
        standing = self._roll.standing(ref)
        if watch.new or watch.ending is Ending.STOPPED or standing in {None, Standing.DEAD}:
            return False
        if standing is Standing.ALIVE:
            self._forget(ref, watch)
        else:
            patience = max(self._roll.patience(ref), CHECK_SECONDS)
            self._watched[ref] = replace(watch, deadline=self._deps.clock() + patience)
        return True

    async def _settle(self, ref: SessionRef, watch: _Watch) -> None:
        try:
            history = await load_history(self._deps.store, ref)
            if self._watched.get(ref) is not watch:
                return
            if history is None or history.finished:
                await self._sweep(ref, history)
                self._end(ref, watch)
            elif watch.new or watch.has_moved(history, self._deps.task):
                self.watch(ref, self._a_window(), history=history)
            else:
                await self._finish(ref, history, watch)
        except (RecordCorrupt, ObjectCorrupt, CodecError) as damage:
            _log.error("orphan_damaged", sessionId=ref.session_id, key=getattr(damage, "key", None))
            self._end(ref, watch)
        except StoreError as refusal:
            reason = getattr(refusal, "reason", type(refusal).__name__)
            _log.warning("orphan_delayed", sessionId=ref.session_id, reason=reason)
            self._look_again(ref, watch, watch)
        except IndexUnavailable:
            self._look_again(ref, watch, watch)
        except (Superseded, FinishLost):
            # Who was quicker may die before it is through.
            self._look_again(ref, watch, _Watch(0.0, new=True))
        except SessionNotFound:
            self._end(ref, watch)

    async def _sweep(self, ref: SessionRef, history: History | None) -> None:
        # Whoever finished it may have died before the segments were gone, or before anybody was told.
        if history is None or history.manifest is None or not history.finished:
            return
        if not is_cleaned_up(history):
            await clean_up(self._deps.store, ref, history.manifest)
        with suppress(LogUnavailable):
            await self._deps.log.archived(ref, history.manifest.epoch, history.manifest.finals)
        item, based = archived_item(history), history.based
        if based is not None and based.base is not None and not await self._is_listed(ref, item):
            won = Claim(based.epoch, history, [], based.base, None)
            self._herald.owe(
                ref, log_tail(self._deps, ref, won, FinalsBook(epoch=won.epoch, seq=history.seq))
            )
            self._herald.tell(item)

    async def _is_listed(self, ref: SessionRef, item: SessionItem) -> bool:
        state, created = item.state, item.created_at
        query = SessionQuery(state, created, rfc3339(unix_time(created) + 0.001))
        page = await self._deps.index.page(ref.clinic_id, query)
        return any(row.session_id == ref.session_id for row in page.items)

    async def _finish(self, ref: SessionRef, history: History, watch: _Watch) -> None:
        spoken = history.speaker_serial > 0
        age = self._deps.wall() - unix_time(history.session.created_at)
        if not spoken and watch.ending is not Ending.STOPPED and age < self._deps.limits.created_seconds:
            self.watch(ref, self._deps.limits.created_seconds - age, history=history)
            return
        await self.finish_now(ref, watch.ending if spoken else Ending.UNSPOKEN)
        self._end(ref, watch)

    async def finish_now(self, ref: SessionRef, ending: Ending) -> Manifest:
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
                reason=ending.value,
                finals=await read_finals(deps.store, ref, history),
                live=Ranges.from_wire(history.live),
                now=deps.now(),
                samples=history.end,
                state="cancelled" if ending is Ending.UNSPOKEN else "completed",
            ),
        )
        _log.info("orphan_finished", sessionId=ref.session_id, epoch=won.epoch, reason=ending.value)
        self._herald.owe(ref, log_tail(deps, ref, won, FinalsBook(epoch=won.epoch, seq=won.base.seq)))
        finished = await load_history(deps.store, ref)
        if finished is not None and finished.finished:
            self._herald.tell(archived_item(finished))
        return manifest

    def _a_window(self) -> float:
        window = self._deps.limits.resume_window_seconds
        return window * (1 + self._deps.rng.uniform(0, JITTER_SHARE))

    def _look_again(self, ref: SessionRef, watch: _Watch, then: _Watch) -> None:
        if self._watched.get(ref) is watch:
            self._watched[ref] = replace(then, deadline=self._deps.clock() + RETRY_SECONDS)

    def _end(self, ref: SessionRef, watch: _Watch) -> None:
        if self._watched.get(ref) is watch:
            del self._watched[ref]
            self._over[ref] = self._deps.clock()
            self._over.move_to_end(ref)
            if len(self._over) > OVER_MAX:
                self._over.popitem(last=False)

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
