"""Reading a session back from the archive: its history, its finals, its samples."""

from __future__ import annotations

from collections.abc import AsyncIterator
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


async def load_history(store: Store, ref: SessionRef) -> History | None:
    """What the archive tells of a session, or None where there is none.

    Costs one listing and a handful of reads however long the session is: the newest segment and finals object of the
    newest epoch tell where things stand.

    Raises:
        StoreError, RecordCorrupt: see there.
    """
    for _ in range(ATTEMPTS - 1):
        with suppress(ObjectMissing):
            return await _load_history(store, ref)
    return await _load_history(store, ref)


async def _load_history(store: Store, ref: SessionRef) -> History | None:
    session = await read_session(store, ref)
    if session is None:
        return None
    listing = Listing.of(await list_names(store, ref))
    epochs = await bounded_map(lambda n: read_epoch(store, ref, n), listing.epochs, limit=PARALLEL_READS)
    manifest = await read_manifest(store, ref) if "manifest.json" in listing.others else None
    return await _with_ends(
        store, ref, History(session, listing, tuple(epochs), manifest and manifest[0], 0, 0)
    )


async def _with_ends(store: Store, ref: SessionRef, bare: History) -> History:
    based, manifest = bare.based, bare.manifest
    if manifest is not None and bare.finished:
        live = manifest.coverage.get("live", [])
        return replace(bare, end=manifest.samples, seq=manifest.finals, live=live, settled=manifest.samples)
    if based is None or based.base is None:
        return bare
    end, seq, live, settled = based.base.position, based.base.seq, based.live, based.settled
    notes: list[FinalsRecord] = []
    if segments := [s for s in bare.listing.segments if s[1] == based.epoch]:
        last = await read_header(store, ref, *segments[-1])
        end = max(end, last.end)
        notes.append(last)
    if finals := [f for f in bare.listing.finals if f[1] == based.epoch]:
        notes += await read_notes(store, ref, finals[-1:])
    note = newest_note(bare.fence, notes)
    if note is not None:
        seq, live, settled = max(seq, note.seq), note.live, max(settled, note.settled)
        if bare.session.recording == "transcript" and note.finals:
            end = max(end, note.finals[-1].final.end)
    return replace(bare, end=end, seq=seq, live=live, settled=settled)


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
    sources += [(n.epoch, n.finals) for n in await read_notes(store, ref, list(history.listing.finals))]
    sources += await _segment_finals(store, ref, history, after)
    return merge_finals(history.fence, sources, after)


async def _segment_finals(
    store: Store, ref: SessionRef, history: History, after: int
) -> list[tuple[int, list[CommittedFinal]]]:
    names = [n for n in history.listing.segments if history.fence.segment_counts(*n)]
    found: list[tuple[int, list[CommittedFinal]]] = []
    for stop in range(len(names), 0, -PARALLEL_READS):
        headers = await read_headers(store, ref, names[max(0, stop - PARALLEL_READS) : stop])
        found += [(h.epoch, h.finals) for h in headers if h.finals]
        # seq never falls along the segments that count: nothing before this one holds a later final.
        if headers[0].seq <= after:
            break
    return found


async def read_pieces(store: Store, ref: SessionRef, history: History, start: int = 0) -> list[Piece]:
    """Which part of which segment holds the samples from ``start`` on."""
    fence = history.fence
    names = [n for n in history.listing.segments if fence.segment_counts(*n)]
    while len(names) > 1 and _ends_before(names, start):
        names = names[1:]
    pieces = pieces_of(fence, await read_headers(store, ref, names))
    return [p for p in pieces if p.end > start]


def _ends_before(names: list[tuple[int, int]], start: int) -> bool:
    # Segments of one epoch follow one another, so the first ends where the second begins.
    (_, epoch), (following, next_epoch) = names[0], names[1]
    return epoch == next_epoch and following <= start


async def read_piece(store: Store, ref: SessionRef, piece: Piece) -> memoryview:
    """The PCM of a piece.

    Raises:
        StoreError, RecordCorrupt: the segment is gone or not what its header says.
    """
    key = segment_key(ref, piece.first, piece.epoch)
    header, pcm = decode_segment(key, (await store.read(key)).data)
    return pcm[bytes_of(piece.start - header.first) : bytes_of(piece.end - header.first)]


async def read_samples(
    store: Store, ref: SessionRef, history: History, start: int, end: int
) -> AsyncIterator[tuple[int, memoryview]]:
    """The PCM of ``[start, end)`` from segments, as (position, bytes) in order; holes are passed over."""
    for piece in await read_pieces(store, ref, history, start):
        if piece.start >= end:
            break
        pcm = await read_piece(store, ref, piece)
        low, high = max(start, piece.start), min(end, piece.end)
        yield low, pcm[bytes_of(low - piece.start) : bytes_of(high - piece.start)]
