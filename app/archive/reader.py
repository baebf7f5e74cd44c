"""Reading a session back from the archive: its history, its finals, its samples."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from app.archive.history import History, Listing, Piece, merge_finals, newest_note, pieces_of
from app.archive.parallel import bounded_map
from app.archive.records import (
    SEGMENT_HEADER_GUESS,
    EpochRecord,
    FinalsRecord,
    Manifest,
    SegmentHeader,
    SessionRecord,
    TranscriptRecord,
    decode_record,
    decode_segment,
    decode_segment_header,
    epoch_key,
    finals_key,
    folder,
    manifest_key,
    segment_header_size,
    segment_key,
    session_key,
)
from app.archive.store import ObjectMissing, Store, Version
from audio.pcm import bytes_of
from audio.transcript import CommittedFinal
from tenants.terms import SessionRef

PARALLEL_READS = 8
"""Objects read at once for one session."""

ATTEMPTS = 3
"""How often a session is read whose objects go while it is read: finishing deletes what the manifest replaces."""


async def list_names(store: Store, ref: SessionRef, under: str = "") -> list[str]:
    """Names in the session's folder that begin with ``under``, in order."""
    prefix = folder(ref)
    return [row.key[len(prefix) :] async for row in store.list(prefix + under)]


async def read_session(store: Store, ref: SessionRef) -> SessionRecord | None:
    """``session.json``, or None where there is no such session."""
    key = session_key(ref)
    try:
        return decode_record(key, (await store.read(key)).data, SessionRecord)
    except ObjectMissing:
        return None


async def read_manifest(store: Store, ref: SessionRef) -> tuple[Manifest, Version] | None:
    """``manifest.json`` and the version to compare with, or None where the session never finished."""
    key = manifest_key(ref)
    try:
        found = await store.read(key)
    except ObjectMissing:
        return None
    return decode_record(key, found.data, Manifest), found.version


async def read_epoch(store: Store, ref: SessionRef, epoch: int) -> EpochRecord:
    """``epochs/<epoch>.json``."""
    key = epoch_key(ref, epoch)
    return decode_record(key, (await store.read(key)).data, EpochRecord)


async def read_header(store: Store, ref: SessionRef, first: int, epoch: int) -> SegmentHeader:
    """The header of a segment; costs one or two small ranged reads."""
    key = segment_key(ref, first, epoch)
    data = (await store.read(key, 0, SEGMENT_HEADER_GUESS)).data
    size = segment_header_size(key, data)
    if size > len(data):
        data = (await store.read(key, 0, size)).data
    return decode_segment_header(key, data)


async def read_headers(store: Store, ref: SessionRef, names: list[tuple[int, int]]) -> list[SegmentHeader]:
    """The headers of the named segments, in the order of ``names``."""
    return await bounded_map(lambda n: read_header(store, ref, *n), names, limit=PARALLEL_READS)


async def read_notes(store: Store, ref: SessionRef, names: list[tuple[int, int]]) -> list[FinalsRecord]:
    """The named finals objects, in the order of ``names``."""

    async def read(name: tuple[int, int]) -> FinalsRecord:
        key = finals_key(ref, *name)
        return decode_record(key, (await store.read(key)).data, FinalsRecord)

    return await bounded_map(read, names, limit=PARALLEL_READS)


async def load_history(
    store: Store, ref: SessionRef, *, known: History | None = None, ends: bool = True
) -> History | None:
    """What the archive tells of a session, or None where there is none.

    Costs one listing and a handful of reads however long the session is: the newest segment and finals object of the
    newest epoch tell where things stand. The session and the epochs of ``known`` are taken as they are and not read again:
    they cannot have changed. ``ends`` False reads no segment and no finals object: where things stand is then where the
    newest owner began.

    Raises:
        StoreError, RecordCorrupt: see there.
    """
    for _ in range(ATTEMPTS - 1):
        with suppress(ObjectMissing):
            return await _load_history(store, ref, known, ends=ends)
    return await _load_history(store, ref, known, ends=ends)


async def _load_history(
    store: Store, ref: SessionRef, known: History | None, *, ends: bool
) -> History | None:
    session = known.session if known is not None else await read_session(store, ref)
    if session is None:
        return None
    listing = Listing.of(await list_names(store, ref))
    have = {e.epoch: e for e in known.epochs} if known is not None else {}
    new = [n for n in listing.epochs if n not in have]
    have |= zip(
        new, await bounded_map(lambda n: read_epoch(store, ref, n), new, limit=PARALLEL_READS), strict=True
    )
    epochs = tuple(have[n] for n in listing.epochs)
    manifest = await read_manifest(store, ref) if "manifest.json" in listing.others else None
    bare = History(session, listing, epochs, manifest and manifest[0], 0, 0)
    return await _with_ends(store, ref, bare, read=ends)


async def _with_ends(store: Store, ref: SessionRef, bare: History, *, read: bool) -> History:
    based, manifest = bare.based, bare.manifest
    if manifest is not None and bare.finished:
        live = manifest.coverage.get("live", [])
        return replace(bare, end=manifest.samples, seq=manifest.finals, live=live, settled=manifest.samples)
    if based is None or based.base is None:
        return bare
    end, seq, live, settled = based.base.position, based.base.seq, based.live, based.settled
    newest = None
    notes: list[FinalsRecord] = []
    if segments := [s for s in bare.listing.segments if read and s[1] == based.epoch]:
        newest = await read_header(store, ref, *segments[-1])
        end = max(end, newest.end)
        notes.append(newest)
    if finals := [f for f in bare.listing.finals if read and f[1] == based.epoch]:
        notes += await read_notes(store, ref, finals[-1:])
    note = newest_note(bare.fence, notes)
    if note is not None:
        seq, live, settled = max(seq, note.seq), note.live, max(settled, note.settled)
        if bare.session.recording == "transcript" and note.finals:
            end = max(end, note.finals[-1].final.end)
    return replace(bare, end=end, seq=seq, live=live, settled=settled, newest=newest)


async def read_finals(
    store: Store, ref: SessionRef, history: History, after: int = 0
) -> list[CommittedFinal]:
    """The finals of the archive after seq ``after``, in order and without a gap.

    Reads backwards from the newest objects and only as far as it must.
    """
    sources: list[tuple[int, list[CommittedFinal]]] = []
    manifest = history.manifest
    if manifest is not None and manifest.transcript is not None:
        key = folder(ref) + manifest.transcript.name
        transcript = decode_record(key, (await store.read(key)).data, TranscriptRecord)
        sources.append((manifest.epoch, transcript.finals))
        if history.finished:
            return merge_finals(history.fence, sources, after)
    sources += [(epoch.epoch, epoch.finals) for epoch in history.epochs]
    notes = [n for n in history.listing.finals if not _is_behind(history.listing.finals, n, after)]
    sources += [(n.epoch, n.finals) for n in await read_notes(store, ref, notes)]
    sources += await _segment_finals(store, ref, history, after)
    return merge_finals(history.fence, sources, after)


def _is_behind(names: Sequence[tuple[int, int]], name: tuple[int, int], after: int) -> bool:
    # Finals objects of one epoch follow one another, so this one ends before the next begins.
    return any(epoch == name[1] and name[0] < first <= after + 1 for first, epoch in names)


async def _segment_finals(
    store: Store, ref: SessionRef, history: History, after: int
) -> list[tuple[int, list[CommittedFinal]]]:
    names = [n for n in history.listing.segments if history.fence.segment_counts(*n)]
    newest = history.newest
    headers: list[SegmentHeader] = []
    if newest is not None and names[-1:] == [(newest.first, newest.epoch)]:
        headers, names = [newest], names[:-1]
    found: list[tuple[int, list[CommittedFinal]]] = []
    while headers or names:
        found += [(h.epoch, h.finals) for h in headers if h.finals]
        # seq never falls along the segments that count: nothing before this one holds a final after what it begins with.
        if headers and _seq_before(headers[0]) <= after:
            break
        headers = await read_headers(store, ref, names[-PARALLEL_READS:])
        del names[-PARALLEL_READS:]
    return found


def _seq_before(header: SegmentHeader) -> int:
    return header.finals[0].seq - 1 if header.finals else header.seq


async def read_pieces(store: Store, ref: SessionRef, history: History, start: int = 0) -> list[Piece]:
    """Which part of which segment holds the samples from ``start`` on."""
    headers = await read_headers(store, ref, _segments_from(history, start))
    return [p for p in pieces_of(history.fence, headers) if p.end > start]


def _segments_from(history: History, start: int) -> list[tuple[int, int]]:
    # Segments of one epoch follow one another, so of those that begin at or before ``start`` only the last can reach it.
    fence, begun = history.fence, dict[int, int]()
    for first, epoch in history.listing.segments:
        if first <= start:
            begun[epoch] = first
    cuts = {epoch: fence.cut_position(epoch) for epoch in history.listing.epochs}
    return [
        (first, epoch)
        for first, epoch in history.listing.segments
        if fence.segment_counts(first, epoch)
        and first >= begun.get(epoch, 0)
        and ((cut := cuts.get(epoch)) is None or cut > start)
    ]


async def read_piece(store: Store, ref: SessionRef, piece: Piece) -> memoryview:
    """The PCM of a piece.

    Raises:
        StoreError, RecordCorrupt: the segment is gone or not what its header says.
    """
    header, pcm = await _read_segment(store, ref, (piece.first, piece.epoch))
    return pcm[bytes_of(piece.start - header.first) : bytes_of(piece.end - header.first)]


async def read_samples(
    store: Store, ref: SessionRef, history: History, start: int, end: int
) -> list[tuple[int, memoryview]]:
    """The PCM of ``[start, end)`` from segments, as (position, bytes) in order; holes are passed over.

    Reads whole segments, each once, and holds them: for seconds of audio.

    Raises:
        StoreError, RecordCorrupt: a segment is gone or not what its header says.
    """
    names = [n for n in _segments_from(history, start) if n[0] < end]
    found = await bounded_map(lambda n: _read_segment(store, ref, n), names, limit=PARALLEL_READS)
    pcm_of = {(header.first, header.epoch): pcm for header, pcm in found}
    samples: list[tuple[int, memoryview]] = []
    for piece in pieces_of(history.fence, [header for header, _ in found]):
        low, high = max(start, piece.start), min(end, piece.end)
        if low < high:
            pcm = pcm_of[piece.first, piece.epoch]
            samples.append((low, pcm[bytes_of(low - piece.first) : bytes_of(high - piece.first)]))
    return samples


async def _read_segment(
    store: Store, ref: SessionRef, name: tuple[int, int]
) -> tuple[SegmentHeader, memoryview]:
    key = segment_key(ref, *name)
    return decode_segment(key, (await store.read(key)).data)
