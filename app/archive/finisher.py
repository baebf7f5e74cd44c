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
)
from app.archive.store import ObjectCorrupt, ObjectExists, ObjectMissing, Store, VersionConflict
from app.telemetry.logs import logger
from audio.codec import FlacEncoder, FlacReader
from audio.coverage import Coverage, Ranges
from audio.pcm import SAMPLE_RATE, bytes_of, samples_of
from audio.transcript import CommittedFinal
from tenants.terms import SessionRef

BLOCK_SAMPLES = 4 * SAMPLE_RATE
"""Samples encoded in one go: what is held in memory, and what a worker thread does at once."""

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

    @property
    def end(self) -> int:
        return max([p.end for p in self.pieces], default=self._finished_before())

    def _finished_before(self) -> int:
        manifest = self.history.manifest
        return manifest.samples if manifest is not None and manifest.audio is not None else 0

    async def blocks(self) -> AsyncIterator[memoryview]:
        """PCM in order, without gaps; what cannot be read comes as zeros and is noted as missing."""
        at = 0
        async for block in self._finished_audio():
            yield block
            at += samples_of(len(block))
        for piece in self.pieces:
            if piece.end <= at:
                continue
            if piece.start > at:
                self.missing.add(at, piece.start)
                for silence in _silence(piece.start - at):
                    yield silence
            async for block in self._piece(piece, max(at, piece.start)):
                yield block
            at = piece.end

    async def _piece(self, piece: Piece, start: int) -> AsyncIterator[memoryview]:
        try:
            pcm = await read_piece(self.store, self.ref, piece)
        except (ObjectCorrupt, ObjectMissing, RecordCorrupt) as loss:
            _log.error("segment_lost", key=loss.key, start=start, end=piece.end)
            self.missing.add(start, piece.end)
            for silence in _silence(piece.end - start):
                yield silence
        else:
            yield pcm[bytes_of(start - piece.start) :]

    async def _finished_audio(self) -> AsyncIterator[memoryview]:
        manifest = self.history.manifest
        if manifest is None or manifest.audio is None:
            return
        for start, end in manifest.coverage.get("missing", []):
            self.missing.add(start, end)
        stored = await self.store.read(folder(self.ref) + manifest.audio.name)
        reader = await asyncio.to_thread(FlacReader, io.BytesIO(stored.data))
        for at in range(0, manifest.samples, BLOCK_SAMPLES):
            count = min(BLOCK_SAMPLES, manifest.samples - at)
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
    """
    history = await load_history(store, order.ref)
    if history is None:
        raise FinishLost
    await _forget_own_attempt(store, order)
    manifest = await _build(store, order, history)
    await _put_manifest(store, order, manifest)
    await clean_up(store, order.ref, manifest)
    return manifest


async def _forget_own_attempt(store: Store, order: Finish) -> None:
    # An earlier attempt of this very epoch may have left objects that no manifest names: they would be in the way.
    found = await read_manifest(store, order.ref)
    if found is not None and found[0].epoch >= order.epoch:
        raise FinishLost
    for name in (audio_name(order.epoch), transcript_name(order.epoch)):
        await store.delete(folder(order.ref) + name)


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
        coverage={name: [(start, end) for start, end in pairs] for name, pairs in coverage.to_wire().items()},
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


async def _put_manifest(store: Store, order: Finish, manifest: Manifest) -> None:
    key = manifest_key(order.ref)
    found = await read_manifest(store, order.ref)
    try:
        if found is None:
            await store.create(key, encode_record(manifest))
        elif found[0].epoch < order.epoch:
            await store.replace(key, encode_record(manifest), found[1])
        else:
            raise FinishLost
    except (ObjectExists, VersionConflict):
        raise FinishLost from None


async def clean_up(store: Store, ref: SessionRef, manifest: Manifest) -> None:
    """Delete what ``manifest`` replaces: segments and finals up to its epoch, and audio and transcripts it does not name."""
    named = {o.name for o in (manifest.audio, manifest.transcript) if o is not None}
    for name in await list_names(store, ref):
        part = parse_segment_name(name) or parse_finals_name(name)
        replaced = part is not None and part[1] <= manifest.epoch
        unnamed = name.startswith(("audio-", "transcript-")) and name not in named
        if replaced or (unnamed and _epoch_in(name) <= manifest.epoch):
            await store.delete(folder(ref) + name)


def _epoch_in(name: str) -> int:
    digits = name.partition("-")[2].partition(".")[0]
    return int(digits) if digits.isdigit() else 0
