"""What can be asked of sessions: rows, views, transcripts, audio. The archive answers, and the owner for what is newer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from app.archive.history import History
from app.archive.reader import load_history, read_finals
from app.archive.records import RangeList, folder, wire_coverage
from app.archive.store import Store
from app.auth.principal import Principal
from app.events.log import LogUnavailable
from app.protocol.rest import Positions, ReadyView, SessionItem, SessionPage, SessionView, TranscriptView
from app.sessions.deps import SessionDeps, rfc3339, unix_time
from app.sessions.errors import Busy, NoAudio, NotFinished, SessionNotFound, SpeakerConnected
from app.sessions.index import IndexUnavailable, SessionQuery
from app.sessions.manager import SessionManager
from app.sessions.recovery import Recovery
from app.sessions.session import Session
from app.sessions.views import archived_item, coverage_so_far, coverage_view, final_view
from audio.coverage import Ranges
from audio.transcript import CommittedFinal
from tenants.clinic import ClinicId
from tenants.terms import SessionRef, is_session_id

REBUILD_WAIT_SECONDS: Final = 5.0
_CONNECTED: Final = "the speaker is connected; it ends the session itself"


class AudioObject(msgspec.Struct, frozen=True):
    """A finished session's FLAC: its key in the store, bytes, samples, and the SHA-256 of the FLAC in hex."""

    key: str
    size: int
    samples: int
    sha256: str


async def find_session(store: Store, clinic_id: ClinicId, session_id: str) -> tuple[SessionRef, History]:
    """A session of a clinic.

    Raises:
        SessionNotFound: there is none; another clinic's is the same.
    """
    if not is_session_id(session_id):
        raise SessionNotFound("no such session")
    ref = SessionRef(clinic_id, session_id)
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
        session = self._owned(principal, session_id)
        if session is not None:
            return _owned_view(session, self._deps.task)
        _, history = await find_session(self._deps.store, principal.clinic_id, session_id)
        record, based = history.session, history.based
        finished = history.manifest if history.finished else None
        return SessionView(
            **msgspec.structs.asdict(archived_item(history)),
            recording=record.recording,
            priority=record.priority,
            positions=Positions(history.end, history.end, min(history.settled, history.end)),
            coverage=coverage_view(archived_coverage(history)),
            epoch=based.epoch if based is not None else 0,
            audio_sha256=finished.audio_sha256 if finished is not None else None,
            metadata=record.metadata,
        )

    async def stop(self, principal: Principal, session_id: str) -> None:
        """End a session whose speaker is gone; it is finished in the background.

        Raises:
            SpeakerConnected: its speaker is there and stops it itself.
            SessionNotFound, StoreError: see there.
        """
        session = self._owned(principal, session_id)
        if session is not None:
            if session.ending is None and session.speaker.link is not None:
                raise SpeakerConnected(_CONNECTED)
            self._manager.stop(session.ref)
            return
        ref, history = await find_session(self._deps.store, principal.clinic_id, session_id)
        if await self._is_spoken_elsewhere(ref, history):
            raise SpeakerConnected(_CONNECTED)
        if not self._manager.stop(ref) and not history.finished:
            self._manager.orphans.stop(ref)

    async def transcript(self, principal: Principal, session_id: str) -> TranscriptView:
        """What is final so far.

        Raises:
            SessionNotFound, StoreError: see there.
        """
        session = self._owned(principal, session_id)
        remembered = session.parts.book.since(0) if session is not None else None
        if session is not None and remembered is not None:
            return _transcript(session.item(), remembered, coverage_of(session))
        ref, history = await find_session(self._deps.store, principal.clinic_id, session_id)
        session = self._manager.owned(ref)
        finals = await read_finals(self._deps.store, ref, history)
        finals += await self._newer(ref, session, finals[-1].seq if finals else 0)
        if session is not None:
            return _transcript(session.item(), finals, coverage_of(session))
        return _transcript(archived_item(history), finals, archived_coverage(history))

    async def audio(self, principal: Principal, session_id: str) -> AudioObject:
        """Where a finished session's FLAC is.

        Raises:
            NotFinished, NoAudio, SessionNotFound, StoreError: see there.
        """
        ref, history = await find_session(self._deps.store, principal.clinic_id, session_id)
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

    def _owned(self, principal: Principal, session_id: str) -> Session | None:
        return self._manager.owned(SessionRef(principal.clinic_id, session_id))

    async def _is_spoken_elsewhere(self, ref: SessionRef, history: History) -> bool:
        # Two witnesses, neither of whom is enough: a row stays as it was when its task dies, a task has more than speakers.
        if not self._manager.is_elsewhere(ref):
            return False
        created = history.session.created_at
        query = SessionQuery(
            state="live", created_from=created, created_to=rfc3339(unix_time(created) + 0.001)
        )
        try:
            page = await self._deps.index.page(ref.clinic_id, query)
        except IndexUnavailable:
            return False
        return any(item.session_id == ref.session_id for item in page.items)

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


def archived_coverage(history: History) -> dict[str, RangeList]:
    """Coverage as the archive tells it: the manifest's when finished, else what is durable so far."""
    if history.manifest is not None and history.finished:
        return history.manifest.coverage
    keeps_audio = history.session.recording == "audio+transcript"
    return wire_coverage(coverage_so_far(keeps_audio, history.end, Ranges.from_wire(history.live)))


def coverage_of(session: Session) -> dict[str, RangeList]:
    """Coverage as the owner knows it."""
    if session.manifest is not None:
        return session.manifest.coverage
    keeps_audio = session.record.recording == "audio+transcript"
    return wire_coverage(coverage_so_far(keeps_audio, session.durable, session.parts.notes.live))


def _owned_view(session: Session, task: str) -> SessionView:
    # From memory alone: an archive that is away keeps nobody from seeing what goes on.
    record, manifest = session.record, session.manifest
    return SessionView(
        **msgspec.structs.asdict(session.item()),
        recording=record.recording,
        priority=record.priority,
        positions=Positions(session.parts.ring.head, session.durable, session.parts.notes.settled),
        coverage=coverage_view(coverage_of(session)),
        owner=task,
        epoch=session.epoch,
        audio_sha256=manifest.audio_sha256 if manifest is not None else None,
        metadata=record.metadata,
    )


def _transcript(
    item: SessionItem, finals: Sequence[CommittedFinal], coverage: dict[str, RangeList]
) -> TranscriptView:
    return TranscriptView(
        session_id=item.session_id,
        language=item.language,
        state=item.state,
        samples=item.samples,
        finals=[final_view(f) for f in finals],
        coverage=coverage_view(coverage),
    )
