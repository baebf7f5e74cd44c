"""Re-reading an archive: do its objects hash to what the manifest says, and does the coverage add up?"""

from __future__ import annotations

import asyncio
import hashlib
import io
from collections.abc import Awaitable, Sequence
from typing import TypeVar

import msgspec

from app.archive.history import History
from app.archive.reader import load_history, read_finals, read_piece, read_pieces
from app.archive.records import (
    Manifest,
    ManifestObject,
    RangeList,
    RecordCorrupt,
    TranscriptRecord,
    decode_record,
    folder,
    wire_coverage,
)
from app.archive.store import ObjectCorrupt, ObjectMissing, Store
from audio.codec import CodecError, FlacReader
from audio.coverage import Coverage, CoverageError, Ranges
from audio.pcm import SAMPLE_RATE
from audio.transcript import CommittedFinal
from tenants.terms import SessionRef

BLOCK_SAMPLES = 60 * SAMPLE_RATE

_T = TypeVar("_T")


class Verdict(msgspec.Struct):
    """What was found. ``faults`` is empty where the archive is what it says it is; the texts hold nothing that was said."""

    finished: bool
    samples: int
    finals: int
    archived: float
    coverage: dict[str, RangeList]
    faults: list[str]


async def verify(store: Store, ref: SessionRef) -> Verdict | None:
    """Read everything of a session again, or None where there is no such session.

    Raises:
        StoreUnavailable: it cannot be told now.
    """
    history = await load_history(store, ref)
    if history is None:
        return None
    if history.manifest is not None and history.finished:
        return await _verify_finished(store, ref, history.manifest)
    return await _verify_unfinished(store, ref, history)


async def _verify_finished(store: Store, ref: SessionRef, manifest: Manifest) -> Verdict:
    faults: list[str] = []
    for stored in (manifest.audio, manifest.transcript):
        data = await _read(store, ref, stored, faults)
        if stored is None or data is None:
            continue
        if stored is manifest.audio:
            faults += await asyncio.to_thread(_audio_faults, manifest, data)
        else:
            faults += _transcript_faults(stored.name, data, manifest.finals)
    if manifest.samples and manifest.audio is None and manifest.audio_sha256 is not None:
        faults.append("the manifest names no audio")
    if manifest.transcript is None:
        faults.append("the manifest names no transcript")
    try:
        coverage = Coverage.from_wire(manifest.coverage)
        coverage.check(manifest.samples, keeps_audio=manifest.audio_sha256 is not None)
    except CoverageError as error:
        faults.append(f"coverage: {error}")
        coverage = Coverage()
    return Verdict(
        True, manifest.samples, manifest.finals, coverage.fraction_archived(), manifest.coverage, faults
    )


async def _read(
    store: Store, ref: SessionRef, stored: ManifestObject | None, faults: list[str]
) -> bytes | None:
    if stored is None:
        return None
    try:
        data = (await store.read(folder(ref) + stored.name)).data
    except (ObjectMissing, ObjectCorrupt) as error:
        faults.append(str(error))
        return None
    if len(data) != stored.size or hashlib.sha256(data).hexdigest() != stored.sha256:
        faults.append(f"{stored.name} is not what the manifest says")
    return data


def _audio_faults(manifest: Manifest, flac: bytes) -> list[str]:
    digest = hashlib.sha256()
    try:
        reader = FlacReader(io.BytesIO(flac))
        for at in range(0, reader.samples, BLOCK_SAMPLES):
            digest.update(reader.read(at, min(BLOCK_SAMPLES, reader.samples - at)))
        reader.close()
    except CodecError as error:
        return [f"audio: {error}"]
    faults = []
    if reader.samples != manifest.samples:
        faults.append(f"the audio has {reader.samples} samples, the manifest says {manifest.samples}")
    if digest.hexdigest() != manifest.audio_sha256:
        faults.append("the audio is not the one that was recorded")
    return faults


def _transcript_faults(name: str, data: bytes, expected: int) -> list[str]:
    try:
        transcript = decode_record(name, data, TranscriptRecord)
    except RecordCorrupt as error:
        return [str(error)]
    return _finals_faults(transcript.finals, expected)


def _finals_faults(finals: Sequence[CommittedFinal], expected: int) -> list[str]:
    faults = []
    if [f.seq for f in finals] != list(range(1, expected + 1)):
        faults.append(f"the finals are not numbered 1 to {expected}")
    if len({f.final.id for f in finals}) != len(finals):
        faults.append("two finals have one id")
    ends = [0, *(f.final.end for f in finals)]
    if any(f.final.start < end for f, end in zip(finals, ends, strict=False)):
        faults.append("finals overlap or are out of order")
    return faults


async def _verify_unfinished(store: Store, ref: SessionRef, history: History) -> Verdict:
    faults: list[str] = []
    before = history.finished_samples
    archived = _archived_before(history)
    known = Ranges([(0, before)] if before else []).subtract(archived)
    pieces = await _read_or_fault(read_pieces(store, ref, history, before), faults) or []
    for piece in pieces:
        if await _read_or_fault(read_piece(store, ref, piece), faults) is not None:
            archived.add(max(before, piece.start), piece.end)
    finals = await _read_or_fault(read_finals(store, ref, history), faults) or []
    faults += _finals_faults(finals, history.seq)
    end = history.end if history.session.recording == "audio+transcript" else 0
    missing = Ranges([(0, end)] if end else []).subtract(archived)
    # Segments are written one after the other: what nobody has told to be missing was there.
    faults += [f"no segment holds the samples {first} to {last}" for first, last in missing.subtract(known)]
    coverage = Coverage(archived=archived, live=Ranges.from_wire(history.live).clip(end), missing=missing)
    wire = wire_coverage(coverage)
    return Verdict(False, history.end, len(finals), coverage.fraction_archived(), wire, faults)


def _archived_before(history: History) -> Ranges:
    if history.manifest is None:
        return Ranges()
    return Ranges.from_wire(history.manifest.coverage["archived"]).clip(history.finished_samples)


async def _read_or_fault(reading: Awaitable[_T], faults: list[str]) -> _T | None:
    try:
        return await reading
    except (ObjectMissing, ObjectCorrupt, RecordCorrupt) as error:
        faults.append(str(error))
        return None
