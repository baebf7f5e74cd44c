"""One session, owned: its parts under one TaskGroup, its state, and its ordered ending.

An ending goes: audio durable, engine told, its last finals committed, finals durable; then whatever it is for.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from app.archive.finisher import FinishLost
from app.archive.records import Manifest
from app.events.log import LogUnavailable
from app.protocol.close import CloseCode
from app.protocol.messages import Flushed, Ready
from app.protocol.rest import SessionItem
from app.sessions.deps import SessionDeps
from app.sessions.ending import Ending, finish_owned, is_outranked
from app.sessions.errors import SessionNotFound, Superseded
from app.sessions.herald import Herald
from app.sessions.hold import GivenUp, Hold, Unconfirmed
from app.sessions.link import WAITING_MAX, Closing, Link
from app.sessions.log_tail import Fenced
from app.sessions.ownership import Claim
from app.sessions.parts import Parts
from app.sessions.speaker import SpeakerSide
from app.sessions.state import SessionState, advance
from app.sessions.views import completed_message, item_of, ready_message
from app.telemetry.logs import logger
from tenants.terms import SessionRef

PAUSE_AFTER_SECONDS = 3.0
"""Without a speaker for so long, what was said becomes final; a shorter break does not tear a sentence apart."""

TOLD_SECONDS = 0.5
"""How long a released session waits for its row to say so: what comes later could overtake the next owner's."""

_log = logger(__name__)


class Session:
    """An owned session; ``run`` is owned by the manager's TaskGroup and lasts as long as the ownership.

    Args:
        serial: of the ticket that the ownership was won with.
        state: what the session was before.

    Attributes:
        manifest: None until it stands.
        fenced: it ended because a newer owner has the session.
    """

    def __init__(
        self,
        deps: SessionDeps,
        claim: Claim,
        parts: Parts,
        *,
        ref: SessionRef,
        serial: int,
        state: SessionState,
        herald: Herald,
    ) -> None:
        self.ref, self.record, self.parts = ref, claim.history.session, parts
        self.serial, self.epoch, self.state = serial, claim.epoch, state
        self.speaker = SpeakerSide(parts.ring, parts.book, self)
        self._detached_since = deps.clock()
        self._paused = False
        self.ending: Ending | None = None
        self.ended, self.fenced = asyncio.Event(), False
        self._deps, self._herald = deps, herald
        self._started_at = min((e.claimed_at for e in claim.history.epochs if e.serial), default=deps.now())
        self._log = _log.bind(epoch=claim.epoch)
        self.manifest: Manifest | None = None
        self._ending_asked, self._flush_asked = asyncio.Event(), asyncio.Event()
        self._flushes = 0
        self.hold = Hold(deps.pulse, deps.clock, deps.limits.resume_window_seconds)
        self._promised = parts.recorder.durable
        deps.metrics.session_moved(None, state.value)

    def item(self) -> SessionItem:
        """The session's row as it is now."""
        manifest = self.manifest
        return item_of(
            self.record,
            self.state,
            samples=manifest.samples if manifest is not None else self.parts.ring.head,
            finals=self.parts.book.committed,
            started_at=self._started_at,
            ended_at=manifest.finished_at if manifest is not None else None,
        )

    # The speaker comes and goes ---------------------------------------------------------------------

    def attach(self, link: Link, resume_ticket: str) -> Ready:
        """``link`` speaks from now on. Returns what it is told first; while the session ends, its window is 0."""
        link.listens_only = self.ending is not None
        self.speaker.attach(link)
        self.parts.courier.link = link
        if self.ending is None and self.state is not SessionState.LIVE:
            self._go(SessionState.LIVE)
        return ready_message(
            self.record,
            position=self.parts.ring.head,
            window=0 if link.listens_only else self.parts.ring.window,
            epoch=self.epoch,
            resume_ticket=resume_ticket,
            engine=self._deps.engine.capabilities.name,
            resume_window=self._deps.limits.resume_window_seconds,
        )

    @property
    def finished(self) -> bool:
        """Whether the manifest stands."""
        return self.manifest is not None

    def tell_end(self, link: Link) -> None:
        """Tell a link that joined at the very end what the others were told."""
        if self.manifest is not None:
            link.complete(completed_message(self.manifest))

    def detach(self, link: Link) -> None:
        """The connection of ``link`` is gone; the session waits for its speaker to resume."""
        if not self.speaker.detach(link):
            return
        self.parts.courier.link = None
        if self.ending is None:
            self._detached_since = self._deps.clock()
            self._paused = False
            self.parts.recorder.cut()
            self._go(SessionState.DETACHED)

    def tick(self, now: float) -> None:
        """Called a few times a second: acks, quiet connections, speakers who do not come back."""
        self.speaker.tick(now)
        if self.state is not SessionState.DETACHED or self.ending is not None:
            return
        away = now - self._detached_since
        if away >= self._deps.limits.resume_window_seconds:
            self.end(Ending.ABANDONED)
        elif away >= PAUSE_AFTER_SECONDS and not self._paused:
            self._paused = True
            self.pause_requested()

    def end(self, ending: Ending) -> None:
        """Begin to end; the first reason stands. ``ended`` is set when it is done."""
        if self.ending is not None:
            return
        self.ending = ending
        self._ending_asked.set()
        if ending is not Ending.RELEASED:
            self._go(SessionState.FINISHING)

    # SpeakerRequests --------------------------------------------------------------------------------

    @property
    def durable(self) -> int:
        """Audio before this position survives the death of this task.

        While it is not sure whose the session is, this stays where it was: a fenced owner's segments count for nothing.
        """
        if self.hold.is_sure:
            self._promised = self.parts.recorder.durable
        return self._promised

    def audio_arrived(self) -> None:
        """The ring has more."""
        self.parts.recorder.audio_arrived()
        if self.parts.transcriber is not None:
            self.parts.transcriber.audio_arrived()

    def flush_requested(self) -> None:
        """Make final what was said so far, then answer."""
        self.parts.recorder.cut()
        self._flushes += 1
        self._flush_asked.set()

    def pause_requested(self) -> None:
        """No audio comes for a while: what was said becomes final and durable."""
        self.parts.recorder.cut()
        if self.parts.transcriber is not None:
            self.parts.transcriber.pause()

    def stop_requested(self) -> None:
        """The speaker ends the session here."""
        self.end(Ending.STOPPED)

    def close(self, code: CloseCode, word: str, message: str) -> None:
        """Close the speaker's connection, if there is one."""
        if self.speaker.link is not None:
            self.speaker.link.close(Closing(code, word, message))

    def send_away(self) -> None:
        """Have the speaker go on at another task."""
        self.close(CloseCode.RESTARTING, "restarting", "this task goes away; resume on any other")

    # Life -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the parts until the session ends, is lost or given up; never raises for any of these."""
        try:
            async with asyncio.TaskGroup() as group:
                workers = self._start(group)
                await self._ending_asked.wait()
                await self._end()
                for worker in workers:
                    worker.cancel()
        except* (Fenced, Superseded, FinishLost, SessionNotFound):
            self.fenced = True
            self._log.info("session_fenced")
            if await is_outranked(self._deps, self.ref, self.serial):
                self.close(CloseCode.SUPERSEDED, "superseded", "another connection has this session now")
            self.send_away()
        except* GivenUp:
            self.send_away()
        except* Unconfirmed:
            self._log.warning("session_unconfirmed")
            self.close(
                CloseCode.DEPENDENCY,
                "ownership_unconfirmed",
                "nothing confirms that this server still has the session; resume",
            )
        finally:
            self._deps.metrics.session_moved(self.state.value, None)
            self.parts.ring.release()
            self.ended.set()

    def _start(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        parts = self.parts
        work = [parts.recorder.run(), parts.committer.run(), self._answer_flushes(), self._trim_log()]
        if parts.transcriber is not None:
            work.append(parts.transcriber.run())
        return [group.create_task(worker) for worker in (*work, self.hold.until_lost())]

    async def _end(self) -> None:
        parts = self.parts
        await parts.recorder.drain()
        await self._hear_out()
        await parts.committer.settle()
        await parts.recorder.drain()
        if self.ending is Ending.RELEASED:
            with suppress(LogUnavailable):
                await parts.tail.archived(parts.book.archived)
            if self.state is SessionState.LIVE:
                self._go(SessionState.DETACHED)
                await self._herald.told(self.ref, TOLD_SECONDS)
            self.send_away()
            return
        self.manifest = await finish_owned(
            self._deps,
            self.ref,
            epoch=self.epoch,
            ending=self.ending or Ending.ABANDONED,
            live=parts.notes.live,
            samples=parts.ring.head,
        )
        self._herald.owe(self.ref, parts.tail)
        self._go(SessionState(self.manifest.state))
        if self.speaker.link is not None:
            self.speaker.link.complete(completed_message(self.manifest))

    async def _hear_out(self) -> None:
        if self.parts.transcriber is None:
            return
        # A next owner hears again what is not final: an engine that hangs need not hold up the speaker for long.
        released = self.ending is Ending.RELEASED
        with suppress(TimeoutError):
            async with asyncio.timeout(self._deps.limits.release_seconds / 2 if released else None):
                await self.parts.transcriber.end()

    async def _answer_flushes(self) -> None:
        while True:
            await self._flush_asked.wait()
            self._flush_asked.clear()
            position, asked = self.parts.ring.head, self._flushes
            if self.parts.transcriber is not None:
                await self.parts.transcriber.flush()
            await self.parts.committer.settle()
            self._flushes -= asked
            for _ in range(min(asked, WAITING_MAX)):
                if self.speaker.link is not None:
                    self.speaker.link.flushed(Flushed(position, self.parts.book.committed))

    async def _trim_log(self) -> None:
        # What the archive carries the log need not keep for another owner.
        trimmed = self.parts.book.archived
        while True:
            await self.parts.courier.stored.wait()
            self.parts.courier.stored.clear()
            archived = self.parts.book.archived
            with suppress(LogUnavailable):
                if archived > trimmed:
                    await self.parts.tail.archived(archived)
                    trimmed = archived

    def _go(self, state: SessionState) -> None:
        self._deps.metrics.session_moved(self.state.value, state.value)
        self.state = advance(self.state, state)
        self._log.info("session_state", state=state.value)
        self._herald.tell(self.item())
