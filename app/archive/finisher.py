"""Segments to one FLAC, one transcript and the manifest that makes them count.

The order is what makes it safe to die anywhere: new objects carry the epoch in their names, the manifest names them
in one compare-and-set, and only then what it replaces is deleted. Whoever does it again, under a newer epoch, ends
with the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

from app.archive.history import History, Piece
from app.archive.parallel import bounded_map
from app.archive.reader import list_names, load_history, read_manifest, read_piece, read_pieces
from app.archive.records import (
    Manifest,
    ManifestObject,
    RecordCorrupt,
    TranscriptRecord,
    audio_name,
    encode_record,
    folder,
    manifest_key,
    parse_finals_name,
    parse_segment_name,
    transcript_name,
    wire_coverage,
)
from app.archive.store import ObjectCorrupt, ObjectMissing, Store, StoreError, StoreUnavailable, Version
from app.telemetry.logs import logger
from audio.codec import CodecError, FlacEncoder, FlacReader
from audio.coverage import Coverage, Ranges
from audio.pcm import SAMPLE_RATE, bytes_of, samples_of
from audio.transcript import CommittedFinal
from tenants.terms import SessionRef

BLOCK_SAMPLES = 4 * SAMPLE_RATE
"""Samples encoded in one go: what is held in memory, and what a worker thread does at once."""

PARALLEL_READS = 4
"""Segments read, and so held, at once for one session."""

PARALLEL_DELETES = 8
"""Objects deleted at once for one session: one after the other, hours of segments would hold up its end for a minute."""

_log = logger(__name__)


class FinishLost(Exception):
    """A newer epoch finished or reopened the session: nothing of ours counts, and nothing needs to."""


@dataclass
class _Source:
    """The samples of a session: the audio finished before, then pieces, with silence where nothing is left."""

    store: Store
    ref: SessionRef
    history: History
    pieces: Sequence[Piece]
    missing: Ranges = field(default_factory=Ranges)

    async def blocks(self) -> AsyncIterator[memoryview]:
        """PCM in order, without gaps; what cannot be read comes as zeros and is noted as missing."""
        at = 0
        async for block in self._finished_audio():
            yield block
            at += samples_of(len(block))
        pieces = [piece for piece in self.pieces if piece.end > at]
        for first in range(0, len(pieces), PARALLEL_READS):
            batch = pieces[first : first + PARALLEL_READS]
            read = await bounded_map(self._read, batch, limit=PARALLEL_READS)
            for piece, pcm in zip(batch, read, strict=True):
                for block in self._after(at, piece, pcm):
                    yield block
                at = piece.end

    def _after(self, at: int, piece: Piece, pcm: memoryview | None) -> list[memoryview]:
        """From ``at`` to the end of ``piece``; silence, noted as missing, before it and where its ``pcm`` is lost."""
        start = max(at, piece.start) if pcm is not None else piece.end
        if start > at:
            self.missing.add(at, start)
        said = [] if pcm is None else [pcm[bytes_of(start - piece.start) :]]
        return [*_silence(start - at), *said]

    async def _read(self, piece: Piece) -> memoryview | None:
        try:
            return await read_piece(self.store, self.ref, piece)
        except (ObjectCorrupt, ObjectMissing, RecordCorrupt) as loss:
            _log.error("segment_lost", key=loss.key, start=piece.start, end=piece.end)
            return None

    async def _finished_audio(self) -> AsyncIterator[memoryview]:
        manifest, samples = self.history.manifest, self.history.finished_samples
        if manifest is None or manifest.audio is None:
            return
        for start, end in Ranges.from_wire(manifest.coverage.get("missing", [])).clip(samples):
            self.missing.add(start, end)
        stored = await self.store.read(folder(self.ref) + manifest.audio.name)
        reader = await asyncio.to_thread(FlacReader, io.BytesIO(stored.data))
        for at in range(0, samples, BLOCK_SAMPLES):
            count = min(BLOCK_SAMPLES, samples - at)
            yield memoryview(await asyncio.to_thread(reader.read, at, count))


def _silence(samples: int) -> list[memoryview]:
    block = memoryview(bytes(bytes_of(BLOCK_SAMPLES)))
    whole, rest = divmod(samples, BLOCK_SAMPLES)
    return [block] * whole + ([block[: bytes_of(rest)]] if rest else [])


@dataclass
class _Encoded:
    """What became of the audio."""

    samples: int = 0
    pcm_sha256: str = hashlib.sha256().hexdigest()
    stored: ManifestObject | None = None


async def _encode(source: _Source, key: str, name: str) -> _Encoded:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    async for block in source.blocks():
        sha256.update(block)
        md5.update(block)
        size += len(block)
    if not size:
        return _Encoded()
    flac_sha256, flac_size = hashlib.sha256(), 0

    async def flac() -> AsyncIterator[bytes]:
        nonlocal flac_size
        encoder = FlacEncoder(samples_of(size), md5.digest())
        try:
            async for block in source.blocks():
                yield noted(await asyncio.to_thread(encoder.encode, block))
            yield noted(await asyncio.to_thread(encoder.finish))
        finally:
            encoder.close()

    def noted(data: bytes) -> bytes:
        nonlocal flac_size
        flac_sha256.update(data)
        flac_size += len(data)
        return data

    await source.store.create(key, flac())
    stored = ManifestObject(name, flac_size, flac_sha256.hexdigest())
    return _Encoded(samples_of(size), sha256.hexdigest(), stored)


@dataclass(frozen=True)
class Finish:
    """An order to finish a session under an epoch that was claimed for it, or is the owner's own.

    Attributes:
        finals: every final of the session, in order and without a gap.
        live: what was transcribed live, over the whole session.
        samples: how far a session went that keeps no audio; otherwise the audio says it.
    """

    ref: SessionRef
    epoch: int
    reason: str
    finals: Sequence[CommittedFinal]
    live: Ranges
    now: str
    samples: int = 0
    state: str = "completed"


async def finish(store: Store, order: Finish) -> Manifest:
    """Write what finishes the session, then delete what it replaces. Safe to cancel and to repeat under a newer epoch.

    Raises:
        FinishLost: see there.
        StoreUnavailable: try again, under a newer epoch or this one.
        StoreError, CodecError: what is left of the session is damaged; nothing was deleted.
    """
    while True:
        found = await read_manifest(store, order.ref)
        if found is not None and found[0].epoch > order.epoch:
            raise FinishLost
        if found is not None and found[0].epoch == order.epoch:
            await clean_up(store, order.ref, found[0])
            return found[0]
        try:
            await _attempt(store, order, found)
        except (StoreError, CodecError) as failure:
            # An older epoch that finishes late takes away what is read here: then its manifest is what to begin from.
            if isinstance(failure, StoreUnavailable) or await read_manifest(store, order.ref) == found:
                raise


async def _attempt(store: Store, order: Finish, found: tuple[Manifest, Version] | None) -> None:
    """Everything but cleaning up. ``found`` is the manifest to replace, read before anything else.

    Raises:
        FinishLost: see there.
        StoreError, CodecError: it may have happened all the same; the manifest tells.
    """
    history = await load_history(store, order.ref)
    if history is None or (history.based is not None and history.based.epoch > order.epoch):
        raise FinishLost
    # An earlier attempt of this very epoch may have left objects that no manifest names: they would be in the way.
    for name in (audio_name(order.epoch), transcript_name(order.epoch)):
        await store.delete(folder(order.ref) + name)
    manifest = encode_record(await _build(store, order, history))
    if found is None:
        await store.create(manifest_key(order.ref), manifest)
    else:
        await store.replace(manifest_key(order.ref), manifest, found[1])


async def _build(store: Store, order: Finish, history: History) -> Manifest:
    keeps_audio = history.session.recording == "audio+transcript"
    name = audio_name(order.epoch)
    pieces = await read_pieces(store, order.ref, history) if keeps_audio else []
    source = _Source(store, order.ref, history, pieces)
    encoded = (
        await _encode(source, folder(order.ref) + name, name) if keeps_audio else _Encoded(order.samples)
    )
    samples = encoded.samples
    live = order.live.clip(samples)
    whole = Ranges([(0, samples)] if samples else [])
    missing = source.missing if keeps_audio else whole.subtract(live)
    coverage = Coverage(
        archived=whole.subtract(missing) if keeps_audio else Ranges(), live=live, missing=missing
    )
    coverage.check(samples, keeps_audio=keeps_audio)
    return Manifest(
        session_id=order.ref.session_id,
        clinic_id=order.ref.clinic_id,
        epoch=order.epoch,
        state=order.state,
        reason=order.reason,
        finished_at=order.now,
        samples=samples,
        finals=len(order.finals),
        coverage=wire_coverage(coverage),
        audio_sha256=encoded.pcm_sha256 if keeps_audio else None,
        audio=encoded.stored,
        transcript=await _put_transcript(store, order, history, samples),
        started_at=min((e.claimed_at for e in history.epochs if e.serial), default=None),
    )


async def _put_transcript(store: Store, order: Finish, history: History, samples: int) -> ManifestObject:
    name = transcript_name(order.epoch)
    record = TranscriptRecord(
        session_id=order.ref.session_id,
        clinic_id=order.ref.clinic_id,
        language=history.session.language,
        samples=samples,
        finals=list(order.finals),
    )
    data = encode_record(record)
    await store.create(folder(order.ref) + name, data)
    return ManifestObject(name, len(data), hashlib.sha256(data).hexdigest())


async def clean_up(store: Store, ref: SessionRef, manifest: Manifest) -> None:
    """Delete what ``manifest`` replaces: segments and finals up to its epoch, and audio and transcripts it does not name."""
    replaced = [name for name in await list_names(store, ref) if _is_replaced(name, manifest)]
    await bounded_map(lambda name: store.delete(folder(ref) + name), replaced, limit=PARALLEL_DELETES)


def is_cleaned_up(history: History) -> bool:
    """Whether nothing is left of what the manifest replaces; otherwise its finisher died before it was through."""
    manifest, listing = history.manifest, history.listing
    if manifest is None:
        return True
    parts = any(epoch <= manifest.epoch for _, epoch in (*listing.segments, *listing.finals))
    return not parts and not any(_is_unnamed(name, manifest) for name in listing.others)


def _is_replaced(name: str, manifest: Manifest) -> bool:
    part = parse_segment_name(name) or parse_finals_name(name)
    return (part is not None and part[1] <= manifest.epoch) or _is_unnamed(name, manifest)


def _is_unnamed(name: str, manifest: Manifest) -> bool:
    named = {stored.name for stored in (manifest.audio, manifest.transcript) if stored is not None}
    made = name.startswith(("audio-", "transcript-")) and name not in named
    return made and _epoch_in(name) <= manifest.epoch


def _epoch_in(name: str) -> int:
    digits = name.partition("-")[2].partition(".")[0]
    return int(digits) if digits.isdigit() else 0
