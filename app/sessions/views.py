"""What sessions look like from outside: rows, views and closing messages made from records."""

from __future__ import annotations

from app.archive.history import History
from app.archive.records import Manifest, RangeList, SessionRecord
from app.protocol.messages import Completed, Ready
from app.protocol.rest import CoverageView, FinalView, SessionItem, WordView
from app.sessions.speaker import IDLE_SECONDS
from app.sessions.state import SessionState
from audio.coverage import Coverage, Ranges
from audio.pcm import FRAME_BYTES_MAX, SAMPLE_RATE
from audio.ring import RING_SAMPLES
from audio.transcript import CommittedFinal


def item_of(
    record: SessionRecord,
    state: SessionState,
    *,
    samples: int = 0,
    finals: int = 0,
    started_at: str | None = None,
    ended_at: str | None = None,
) -> SessionItem:
    """A session's row."""
    return SessionItem(
        session_id=record.session_id,
        clinic_id=record.clinic_id,
        state=state.value,
        language=record.language,
        created_at=record.created_at,
        created_by=record.created_by,
        title=record.title,
        external_id=record.external_id,
        started_at=started_at,
        ended_at=ended_at,
        samples=samples,
        finals=finals,
    )


def archived_state(history: History) -> SessionState:
    """The state that the archive alone tells of."""
    if history.manifest is not None and history.finished:
        return SessionState(history.manifest.state)
    return SessionState.CREATED if not history.speaker_serial else SessionState.DETACHED


def archived_item(history: History) -> SessionItem:
    """A session's row as the archive tells it."""
    manifest = history.manifest if history.finished else None
    return item_of(
        history.session,
        archived_state(history),
        samples=history.end,
        finals=history.seq,
        started_at=min((e.claimed_at for e in history.epochs if e.serial), default=None),
        ended_at=manifest.finished_at if manifest is not None else None,
    )


def coverage_so_far(keeps_audio: bool, durable: int, live: Ranges) -> Coverage:
    """The ledger of a session that goes on: nothing is known to be missing."""
    whole = Ranges([(0, durable)] if durable else [])
    return Coverage(archived=whole if keeps_audio else Ranges(), live=live.clip(durable))


def coverage_view(wire: dict[str, RangeList]) -> CoverageView:
    """Coverage as REST answers it."""
    return CoverageView(**wire)


def final_view(committed: CommittedFinal) -> FinalView:
    """A final as REST answers it."""
    final = committed.final
    words = [WordView(w.text, w.start, w.end, w.confidence, w.speaker) for w in final.words]
    return FinalView(committed.seq, final.id, final.start, final.end, final.text, words, final.language)


def completed_message(manifest: Manifest) -> Completed:
    """The last message to a speaker."""
    return Completed(
        manifest.session_id, manifest.samples, manifest.finals, manifest.coverage, manifest.audio_sha256
    )


def ready_message(
    record: SessionRecord,
    *,
    position: int,
    window: int,
    epoch: int,
    resume_ticket: str,
    engine: str,
    resume_window: float,
) -> Ready:
    """The first message to a speaker who may speak."""
    return Ready(
        session_id=record.session_id,
        position=position,
        window=window,
        epoch=epoch,
        resume_ticket=resume_ticket,
        config={"language": record.language, "engine": engine, "recording": record.recording},
        limits={
            "sampleRate": SAMPLE_RATE,
            "frameBytesMax": FRAME_BYTES_MAX,
            "windowSamples": RING_SAMPLES,
            "idleSeconds": int(IDLE_SECONDS),
            "resumeWindowSeconds": int(resume_window),
        },
    )
