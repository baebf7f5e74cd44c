"""One session, owned: its parts under one TaskGroup, its state, and its ordered ending.

An ending goes: audio durable, engine told, its last finals committed, finals durable; then whatever it is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum

from app.archive.finisher import Finish, FinishLost, finish
from app.archive.reader import load_history, read_finals
from app.archive.records import Manifest
from app.archive.store import StoreUnavailable
from app.events.log import LogUnavailable
from app.protocol.close import CloseCode
from app.protocol.messages import Flushed, Ready
from app.protocol.rest import SessionItem
from app.sessions.committer import Fenced
from app.sessions.deps import SessionDeps
from app.sessions.errors import SessionNotFound, Superseded
from app.sessions.link import WAITING_MAX, Closing, Link
from app.sessions.ownership import Claim
from app.sessions.parts import Parts
from app.sessions.speaker import IDLE_SECONDS, SpeakerSide
from app.sessions.state import SessionState, advance
from app.sessions.views import completed_message, item_of
from app.telemetry.logs import logger
from audio.pcm import FRAME_BYTES_MAX, SAMPLE_RATE
from audio.ring import RING_SAMPLES
from tenants.terms import SessionRef

FINISH_RETRY_SECONDS = 2.0
PAUSE_AFTER_SECONDS = 3.0
"""Without a speaker for so long, what was said becomes final; a shorter break does not tear a sentence apart."""

_log = logger(__name__)


class Ending(Enum):
    """What an owner ends its session for."""

    STOPPED = "stopped"
    ABANDONED = "abandoned"
    RELEASED = "released"
    """Everything is made durable and the session left for another owner."""


class Session:
    """An owned session; ``run`` is owned by the manager's TaskGroup and lasts as long as the ownership.

    Args:
        serial: of the ticket that the ownership was won with.
        state: what the session was before.
        changed: called after every change of ``state``. (``fenced``: it ended because a newer owner has the session.)
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
        changed: Callable[[Session], None],
    ) -> None:
        self.ref, self.record, self.parts = ref, claim.history.session, parts
        self.serial, self.epoch, self.state = serial, claim.epoch, state
        self.speaker = SpeakerSide(parts.ring, parts.book, self)
        self._detached_since = deps.clock()
        self._paused = False
        self.ending: Ending | None = None
        self.ended, self.fenced = asyncio.Event(), False
        self._deps, self._changed = deps, changed
        self._started_at = min((e.claimed_at for e in claim.history.epochs if e.serial), default=deps.now())
        self._log = _log.bind(epoch=claim.epoch)
        self._manifest: Manifest | None = None
        self._ending_asked, self._flush_asked = asyncio.Event(), asyncio.Event()
        self._flushes = 0
        deps.metrics.session_moved(None, state.value)

    def item(self) -> SessionItem:
        """The session's row as it is now."""
        manifest = self._manifest
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
        ring, limits = self.parts.ring, self._deps.limits
        return Ready(
            session_id=self.ref.session_id,
            position=ring.head,
            window=0 if link.listens_only else ring.window,
            epoch=self.epoch,
            resume_ticket=resume_ticket,
            config={
                "language": self.record.language,
                "engine": self._deps.engine.capabilities.name,
                "recording": self.record.recording,
            },
            limits={
                "sampleRate": SAMPLE_RATE,
                "frameBytesMax": FRAME_BYTES_MAX,
                "windowSamples": RING_SAMPLES,
                "idleSeconds": int(IDLE_SECONDS),
                "resumeWindowSeconds": int(limits.resume_window_seconds),
            },
        )

    @property
    def finished(self) -> bool:
        """Whether the manifest stands."""
        return self._manifest is not None

    def tell_end(self, link: Link) -> None:
        """Tell a link that joined at the very end what the others were told."""
        if self._manifest is not None:
            link.complete(completed_message(self._manifest))

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
        """Audio before this position survives the death of this task."""
        return self.parts.recorder.durable

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

    # Life -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run the parts until the session ends or is lost to a newer owner; never raises for either.

        A cancel gives everything back at once; what is not durable then is still with the client.
        """
        try:
            async with asyncio.TaskGroup() as group:
                parts = self.parts
                workers = [group.create_task(parts.recorder.run()), group.create_task(parts.committer.run())]
                workers += [group.create_task(self._answer_flushes()), group.create_task(self._trim_log())]
                if parts.transcriber is not None:
                    workers.append(group.create_task(parts.transcriber.run()))
                await self._ending_asked.wait()
                await self._end()
                for worker in workers:
                    worker.cancel()
        except* (Fenced, Superseded, FinishLost, SessionNotFound):
            self.fenced = True
            self._log.info("session_fenced")
            self._close(CloseCode.SUPERSEDED, "superseded", "another connection has taken over this session")
        finally:
            self._deps.metrics.session_moved(self.state.value, None)
            self.parts.ring.release()
            self.ended.set()

    async def _end(self) -> None:
        parts = self.parts
        await parts.recorder.drain()
        if parts.transcriber is not None:
            await parts.transcriber.end()
        await parts.committer.settle()
        await parts.recorder.drain()
        if self.ending is Ending.RELEASED:
            if self.state is SessionState.LIVE:
                self._go(SessionState.DETACHED)
            self._close(CloseCode.RESTARTING, "restarting", "this task goes away; resume on any other")
            return
        self._manifest = await self._finish()
        self._go(SessionState(self._manifest.state))
        if self.speaker.link is not None:
            self.speaker.link.complete(completed_message(self._manifest))

    async def _finish(self) -> Manifest:
        while True:
            try:
                return await finish(self._deps.store, await self._order())
            except StoreUnavailable as refusal:
                self._log.warning("finish_delayed", reason=refusal.reason)
                await asyncio.sleep(FINISH_RETRY_SECONDS)

    async def _order(self) -> Finish:
        history = await load_history(self._deps.store, self.ref)
        if history is None or self.ending is None:
            raise SessionNotFound
        return Finish(
            ref=self.ref,
            epoch=self.epoch,
            reason=self.ending.value,
            finals=await read_finals(self._deps.store, self.ref, history),
            live=self.parts.notes.live,
            now=self._deps.now(),
            samples=self.parts.ring.head,
        )

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
            if archived == trimmed:
                continue
            try:
                await self._deps.log.archived(self.ref, self.epoch, archived)
            except LogUnavailable:
                continue
            trimmed = archived

    def _close(self, code: CloseCode, word: str, message: str) -> None:
        if self.speaker.link is not None:
            self.speaker.link.close(Closing(code, word, message))

    def _go(self, state: SessionState) -> None:
        self._deps.metrics.session_moved(self.state.value, state.value)
        self.state = advance(self.state, state)
        self._log.info("session_state", state=state.value)
        self._changed(self)
