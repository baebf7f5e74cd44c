"""A session's parts, built from a claim: the ring with what the engine needs again, its readers, their workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from app.archive.reader import load_history, read_finals, read_samples
from app.archive.recorder import Recorder
from app.archive.records import RecordCorrupt
from app.archive.store import ObjectCorrupt, ObjectMissing, StoreUnavailable
from app.events.log import LogUnavailable
from app.sessions.committer import Committer
from app.sessions.courier import Courier, SessionNotes
from app.sessions.deps import SessionDeps, unix_time
from app.sessions.errors import Superseded
from app.sessions.finals import RECENT_FINALS, FinalsBook
from app.sessions.log_tail import Fenced, LogTail
from app.sessions.ownership import Claim, confirm
from app.telemetry.logs import logger
from audio.coverage import Ranges
from audio.engine import StreamRequest
from audio.pcm import bytes_of
from audio.ring import RING_SAMPLES, Reader, Ring
from audio.timeline import ordinal_of
from audio.transcriber import Transcriber, TranscriberLimits
from audio.transcript import CommittedFinal
from tenants.terms import SessionRef

REPLAY_SAMPLES = RING_SAMPLES // 2
"""At most so much durable audio is read back for the engine by a new owner: half the window stays open."""

CONFIRM_RETRY_SECONDS = 1.0
"""Between two questions to an archive that does not say whether this task still owns the session; nothing is told meanwhile."""

_log = logger(__name__)


@dataclass(frozen=True)
class Parts:
    """What a session is made of. ``transcriber`` is None where the engine transcribes nothing."""

    ring: Ring
    book: FinalsBook
    notes: SessionNotes
    courier: Courier
    recorder: Recorder
    tail: LogTail
    committer: Committer
    transcriber: Transcriber | None


async def assemble(deps: SessionDeps, ref: SessionRef, claim: Claim, after: int = 0) -> Parts:
    """Build the parts of the session that ``claim`` won, for a speaker with the finals up to ``after``. Nothing runs yet.

    Raises:
        StoreError, RecordCorrupt: the audio that the engine needs again cannot be read, or the last finals.
    """
    ring, reader = await _ring_of(deps, ref, claim)
    recent = await _recent(deps, ref, claim, after)
    book = FinalsBook(epoch=claim.epoch, seq=claim.base.seq, recent=recent)
    courier = Courier(deps.metrics, deps.publisher, ref, epoch=claim.epoch, durable=claim.base.position)
    transcriber = None
    if reader is not None:
        # Result ids stay unique over owners: they go on after the last final's.
        ordinal = ordinal_of(recent[-1].final.id) + 1 if recent else 1
        transcriber = _transcriber(
            deps, ref, claim, ring=ring, reader=reader, courier=courier, ordinal=ordinal
        )
    inherited = Ranges.from_wire(claim.history.live)
    notes = SessionNotes(book, inherited, transcriber)
    recorder = Recorder(
        store=deps.store,
        ref=ref,
        epoch=claim.epoch,
        ring=ring,
        reader=ring.add_reader("recorder", claim.base.position),
        notes=notes,
        events=courier,
        segment_seconds=deps.limits.segment_seconds,
        keep_audio=_keeps_audio(claim),
        confirm=_confirming(deps, ref, claim.epoch),
        clock=deps.clock,
        rng=deps.rng,
    )
    tail = log_tail(deps, ref, claim, book)
    committer = Committer(
        tail=tail,
        book=book,
        events=courier,
        recorder=recorder,
        clock=deps.clock,
    )
    courier.committer = committer
    return Parts(ring, book, notes, courier, recorder, tail, committer, transcriber)


def log_tail(deps: SessionDeps, ref: SessionRef, claim: Claim, book: FinalsBook) -> LogTail:
    """The log's end of the session that ``claim`` won."""

    async def earlier(after: int, last: int) -> list[CommittedFinal]:
        try:
            history = await load_history(deps.store, ref)
            found = await read_finals(deps.store, ref, history, after) if history is not None else []
        except (StoreUnavailable, ObjectMissing) as refusal:
            raise LogUnavailable("archive_away") from refusal
        except (ObjectCorrupt, RecordCorrupt) as damage:
            # Who follows the log never gets these; the session goes on, as without a log.
            _log.error("finals_damaged", sessionId=ref.session_id, key=damage.key)
            return []
        return [final for final in found if final.seq <= last]

    return LogTail(
        log=deps.log,
        ref=ref,
        epoch=claim.epoch,
        task=deps.task,
        book=book,
        confirm=_confirming(deps, ref, claim.epoch),
        earlier=earlier,
        at=claim.log_at,
        fence=claim.history.fence.extended(claim.epoch, claim.base),
    )


def _confirming(deps: SessionDeps, ref: SessionRef, epoch: int) -> Callable[[], Awaitable[None]]:
    async def confirmed() -> None:
        while True:
            try:
                return await confirm(deps.store, ref, epoch)
            except Superseded:
                raise Fenced from None
            except StoreUnavailable:
                await asyncio.sleep(CONFIRM_RETRY_SECONDS)

    return confirmed


def _keeps_audio(claim: Claim) -> bool:
    return claim.history.session.recording == "audio+transcript"


async def _ring_of(deps: SessionDeps, ref: SessionRef, claim: Claim) -> tuple[Ring, Reader | None]:
    """The ring, and in it the reader of the transcriber: it holds the writer from the first sample read back."""
    end = claim.base.position
    if not deps.engine.capabilities.transcribes:
        return Ring(end), None
    start = max(min(claim.history.settled, end), end - REPLAY_SAMPLES) if _keeps_audio(claim) else end
    ring = Ring(start)
    reader = ring.add_reader("transcriber", start)
    for position, pcm in await read_samples(deps.store, ref, claim.history, start, end):
        ring.write(bytes(bytes_of(position - ring.head)))
        ring.write(pcm)
    if ring.head != end:
        ring = Ring(end)
        reader = ring.add_reader("transcriber", end)
    return ring, reader


def _transcriber(
    deps: SessionDeps,
    ref: SessionRef,
    claim: Claim,
    *,
    ring: Ring,
    reader: Reader,
    courier: Courier,
    ordinal: int,
) -> Transcriber:
    record = claim.history.session
    return Transcriber(
        engine=deps.engine,
        request=StreamRequest(
            language=record.language,
            session=ref.session_id,
            vocabulary=record.vocabulary,
            speaker_labels=record.speaker_labels,
            regions=deps.regions_of(ref.clinic_id),
            priority=record.priority,
            since=unix_time(record.created_at),
        ),
        ring=ring,
        reader=reader,
        sink=courier,
        language=record.language,
        next_ordinal=ordinal,
        settled=claim.history.settled,
        clock=deps.clock,
        rng=deps.rng,
        limits=TranscriberLimits(
            end=deps.limits.end_seconds,
            silent_stream=deps.engine.capabilities.mute_seconds,
            gather=deps.engine.capabilities.gather,
        ),
        keep_audio=_keeps_audio(claim),
    )


async def _recent(deps: SessionDeps, ref: SessionRef, claim: Claim, after: int) -> list[CommittedFinal]:
    """The last finals before this owner, back to ``after`` if that is not too far, and at least one if there is any."""
    seq = claim.base.seq
    after = max(min(after, seq - 1), seq - RECENT_FINALS, 0)
    archived = claim.history.seq
    found = await read_finals(deps.store, ref, claim.history, after) if after < archived else []
    return [final for final in (*found, *claim.adopted) if after < final.seq <= seq]
