"""What can be asked of sessions: rows, views, transcripts, audio. The archive answers, and the owner for what is newer."""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from app.archive.history import History
from app.archive.reader import load_history, read_finals
from app.archive.records import folder, wire_coverage
from app.archive.store import Store
from app.auth.principal import Principal
from app.events.log import LogUnavailable
from app.protocol.rest import Positions, ReadyView, SessionPage, SessionView, TranscriptView
from app.sessions.deps import SessionDeps
from app.sessions.errors import Busy, NoAudio, NotFinished, SessionNotFound, SpeakerConnected
from app.sessions.index import SessionQuery
from app.sessions.manager import SessionManager
from app.sessions.recovery import Recovery
from app.sessions.session import Session
from app.sessions.views import archived_item, coverage_so_far, coverage_view, final_view
from audio.coverage import Ranges
from audio.transcript import CommittedFinal
from tenants.terms import SessionRef, is_session_id

REBUILD_WAIT_SECONDS: Final = 5.0


class AudioObject(msgspec.Struct, frozen=True):
    """A finished session's FLAC: its key in the store, bytes, samples, and the SHA-256 of the FLAC in hex."""

    key: str
    size: int
    samples: int
    sha256: str


async def find_session(store: Store, principal: Principal, session_id: str) -> tuple[SessionRef, History]:
    """A session of the caller's clinic.

    Raises:
        SessionNotFound: there is none; another clinic's is the same.
    """
    if not is_session_id(session_id):
        raise SessionNotFound("no such session")
    ref = SessionRef(principal.clinic_id, session_id)
    history = await load_history(store, ref)
    if history is None:
        raise SessionNotFound("no such session")
    return ref, history


class Catalog:
    """Answers for the REST calls that read, and for ``stop``."""

    def __init__(self, deps: SessionDeps, manager: SessionManager, recovery: Recovery) -> None:
        self._deps, self._manager, self._recovery = deps, manager, recovery

    async def page(self, principal: Principal, query: SessionQuery) -> SessionPage:
        """Rows of the caller's clinic, newest first.

        Raises:
            Busy: the index is being rebuilt.
            IndexUnavailable: see there.
        """
        try:
            async with asyncio.timeout(REBUILD_WAIT_SECONDS):
                await self._recovery.done.wait()
        except TimeoutError:
            raise Busy(
                "index_rebuilding", "the list is being rebuilt from the archive; try again", 2
            ) from None
        return await self._deps.index.page(principal.clinic_id, query)

    async def view(self, principal: Principal, session_id: str) -> SessionView:
        """All there is to say of a session.

        Raises:
            SessionNotFound, StoreError: see there.
        """
        ref, history = await find_session(self._deps.store, principal, session_id)
        session = self._manager.owned(ref)
        item = archived_item(history) if session is None else session.item()
        record, based = history.session, history.based
        return SessionView(
            **msgspec.structs.asdict(item),
            recording=record.recording,
            priority=record.priority,
            positions=_positions(history, session),
            coverage=coverage_view(wire_coverage_of(history, session)),
            owner=self._deps.task if session is not None else None,
            epoch=based.epoch if based is not None else 0,
            audio_sha256=history.manifest.audio_sha256
            if history.manifest is not None and history.finished
            else None,
            metadata=record.metadata,
        )

    async def stop(self, principal: Principal, session_id: str) -> None:
        """End a session whose speaker is gone; it is finished in the background.

        Raises:
            SpeakerConnected: its speaker is there and stops it itself.
            SessionNotFound, StoreError: see there.
        """
        ref, history = await find_session(self._deps.store, principal, session_id)
        session = self._manager.owned(ref)
        if session is not None and session.ending is None and session.speaker.link is not None:
            raise SpeakerConnected("the speaker is connected; it ends the session itself")
        if not self._manager.stop(ref) and not history.finished:
            self._manager.orphans.stop(ref)

    async def transcript(self, principal: Principal, session_id: str) -> TranscriptView:
        """What is final so far.

        Raises:
            SessionNotFound, StoreError: see there.
        """
        ref, history = await find_session(self._deps.store, principal, session_id)
        session = self._manager.owned(ref)
        finals = await read_finals(self._deps.store, ref, history)
        finals += await self._newer(ref, session, finals[-1].seq if finals else 0)
        item = archived_item(history) if session is None else session.item()
        return TranscriptView(
            session_id=session_id,
            language=history.session.language,
            state=item.state,
            samples=item.samples,
            finals=[final_view(f) for f in finals],
            coverage=coverage_view(wire_coverage_of(history, session)),
        )

    async def audio(self, principal: Principal, session_id: str) -> AudioObject:
        """Where a finished session's FLAC is.

        Raises:
            NotFinished, NoAudio, SessionNotFound, StoreError: see there.
        """
        ref, history = await find_session(self._deps.store, principal, session_id)
        manifest = history.manifest
        if manifest is None or not history.finished:
            raise NotFinished("the session goes on; its audio can be had when it is finished")
        if manifest.audio is None:
            raise NoAudio("the session holds no audio")
        return AudioObject(
            folder(ref) + manifest.audio.name, manifest.audio.size, manifest.samples, manifest.audio.sha256
        )

    def checks(self) -> ReadyView:
        """Whether new sessions are taken here."""
        health, reading = self._deps.health, not self._recovery.done.is_set()
        checks = {
            "redis": "ok" if health.index_answers else "unavailable",
            "archive": "unavailable" if not health.archive_answers else "reading" if reading else "ok",
            "engine": "ok" if self._deps.engine.has_room() else "waiting",
        }
        if self._manager.draining:
            return ReadyView("draining", checks)
        return ReadyView("ready" if health.takes_sessions else "not_ready", checks)

    async def _newer(self, ref: SessionRef, session: Session | None, seq: int) -> list[CommittedFinal]:
        if session is not None:
            return session.parts.book.since(seq) or []
        try:
            pending = await self._deps.log.pending(ref)
        except LogUnavailable:
            return []
        newer: list[CommittedFinal] = []
        for final in pending:
            if final.seq == seq + len(newer) + 1:
                newer.append(final)
        return newer


def wire_coverage_of(history: History, session: Session | None) -> dict[str, list[tuple[int, int]]]:
    """Coverage as it is now: the manifest's when finished, else what is durable so far."""
    if history.manifest is not None and history.finished and session is None:
        return history.manifest.coverage
    keeps_audio = history.session.recording == "audio+transcript"
    if session is not None:
        return wire_coverage(coverage_so_far(keeps_audio, session.durable, session.parts.notes.live))
    return wire_coverage(coverage_so_far(keeps_audio, history.end, Ranges.from_wire(history.live)))


def _positions(history: History, session: Session | None) -> Positions:
    if session is not None:
        return Positions(session.parts.ring.head, session.durable, session.parts.notes.settled)
    return Positions(history.end, history.end, min(history.settled, history.end))
