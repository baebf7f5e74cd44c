"""Ring to durable segments: the reader whose position is ``durable``.

A segment is 5 s of audio, or what there is after 5 s of wall time or when a cut is asked for, with the finals
committed since the segment before. Finals for which there is no audio travel in an object of their own. Segments are
written one after the other, so what is durable has no holes.

An object that is stored may be beyond the base of a newer owner, and count for nothing. A claim creates its epoch first and
reads afterwards; so the recorder stores first and looks for a newer epoch afterwards, and only then says durable.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from typing import Protocol

from app.archive.records import (
    FinalsRecord,
    RangeList,
    SegmentHeader,
    encode_record,
    encode_segment,
    finals_key,
    segment_key,
)
from app.archive.store import Store, StoreUnavailable
from audio.pcm import SAMPLE_RATE
from audio.ring import Reader, Ring
from audio.transcript import CommittedFinal
from tenants.terms import SessionRef

RETRY_SECONDS_MIN = 0.2
RETRY_SECONDS_MAX = 5.0


class Notes(Protocol):
    """What goes into the archive beside the audio."""

    def unarchived(self) -> list[CommittedFinal]:
        """Committed finals that no object carries yet, in order."""

    def mark_archived(self, seq: int) -> None:
        """Finals up to ``seq`` are durable."""

    def marks(self) -> tuple[int, RangeList, int]:
        """(last committed seq, ranges transcribed live, settled position), as of now."""


class RecorderEvents(Protocol):
    """Whom the recorder tells. All calls are synchronous and quick."""

    def on_durable(self, position: int, seconds: float) -> None:
        """Everything before ``position`` survives the death of this task; the put took ``seconds``, retries included."""

    def on_archive_degraded(self, reason: str) -> None:
        """The store refuses; what arrives stays in the ring until it takes it again."""

    def on_archive_recovered(self) -> None:
        """The store takes objects again."""


class Recorder:
    """One session's recorder; ``run`` is owned by the session's TaskGroup.

    Args:
        reader: its ring reader, at the position that is durable already.
        keep_audio: False writes finals only; ``durable`` is then the end of the last stored final.
        confirm: returns when it is known that no newer owner was there at the call; raises when there is one.
    """

    def __init__(
        self,
        *,
        store: Store,
        ref: SessionRef,
        epoch: int,
        ring: Ring,
        reader: Reader,
        notes: Notes,
        events: RecorderEvents,
        segment_seconds: float,
        keep_audio: bool,
        confirm: Callable[[], Awaitable[None]],
        clock: Callable[[], float],
        rng: random.Random,
    ) -> None:
        self._store, self._ref, self._epoch = store, ref, epoch
        self._ring, self._reader, self._notes, self._events = ring, reader, notes, events
        self._segment_seconds = segment_seconds
        self._segment_samples = round(segment_seconds * SAMPLE_RATE)
        self._keep_audio, self._confirm, self._clock, self._rng = keep_audio, confirm, clock, rng
        self._wake = asyncio.Event()
        self._written = asyncio.Condition()
        self._since: float | None = None
        self._cut_at = (0, 0)
        self.durable = reader.position
        if not keep_audio:
            reader.let_go()

    def audio_arrived(self) -> None:
        """The writer has written; called after each frame."""
        if self._since is None:
            self._since = self._clock()
            self._wake.set()
        elif self._ring.head - self._reader.position >= self._segment_samples:
            self._wake.set()

    def finals_arrived(self) -> None:
        """A final was committed; it is carried by the next segment, within ``segment_seconds``."""
        if self._since is None:
            self._since = self._clock()
            self._wake.set()

    def cut(self) -> None:
        """Write what there is now, without waiting for a whole segment; what comes later is not in a hurry."""
        self._cut_at = (self._ring.head, self._notes.marks()[0])
        self._wake.set()

    async def drain(self) -> None:
        """Return when all audio and finals that are there at the call are durable, and nobody newer was there then.

        Cancellation-safe.
        """
        head, seq = self._ring.head, self._notes.marks()[0]
        while not self._has_stored(head, seq):
            self.cut()
            async with self._written:
                if not self._has_stored(head, seq):
                    await self._written.wait()

    async def run(self) -> None:
        """Write segments until cancelled; a put under way at a cancel is whole in the archive or not there.

        Raises:
            whatever ``confirm`` raises when there is a newer owner.
        """
        while True:
            await self._until_due()
            await self._write_next()
            async with self._written:
                self._written.notify_all()

    def _has_stored(self, head: int, seq: int) -> bool:
        unarchived = self._notes.unarchived()
        stored_seq = not unarchived or unarchived[0].seq > seq
        return stored_seq and (not self._keep_audio or self._reader.position >= head)

    def _lag(self) -> int:
        return self._ring.head - self._reader.position if self._keep_audio else 0

    def _due(self) -> bool:
        lag = self._lag()
        if not lag and not self._notes.unarchived():
            self._since = None
            return False
        late = self._since is not None and self._clock() - self._since >= self._segment_seconds
        return lag >= self._segment_samples or late or not self._has_stored(*self._cut_at)

    async def _until_due(self) -> None:
        while not self._due():
            self._wake.clear()
            if self._since is None:
                await self._wake.wait()
                continue
            try:
                async with asyncio.timeout(max(0.0, self._since + self._segment_seconds - self._clock())):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def _write_next(self) -> None:
        started = self._clock()
        finals = self._notes.unarchived()
        end = min(self._ring.head, self._reader.position + self._segment_samples) if self._keep_audio else 0
        if self._lag():
            key, body = self._segment(end, finals)
        else:
            key, body = self._finals_object(finals)
        await self._put(key, body)
        await self._confirm()
        if self._keep_audio:
            self._reader.advance(end)
            self.durable = end
        elif finals:
            self.durable = max(self.durable, finals[-1].final.end)
        if finals:
            self._notes.mark_archived(finals[-1].seq)
        # Finals that came while this was written have told nobody: they must not wait for more audio.
        self._since = self._clock() if self._lag() or self._notes.unarchived() else None
        self._events.on_durable(self.durable, self._clock() - started)

    def _segment(self, end: int, finals: list[CommittedFinal]) -> tuple[str, bytes]:
        first = self._reader.position
        views = list(self._ring.view(first, end))
        digest = hashlib.sha256()
        for view in views:
            digest.update(view)
        seq, live, settled = self._notes.marks()
        header = SegmentHeader(
            epoch=self._epoch,
            seq=finals[-1].seq if finals else seq,
            finals=finals,
            live=live,
            settled=settled,
            first=first,
            samples=end - first,
            sha256=digest.hexdigest(),
        )
        return segment_key(self._ref, first, self._epoch), encode_segment(header, views)

    def _finals_object(self, finals: list[CommittedFinal]) -> tuple[str, bytes]:
        _, live, settled = self._notes.marks()
        record = FinalsRecord(self._epoch, finals[-1].seq, finals, live, settled)
        return finals_key(self._ref, finals[0].seq, self._epoch), encode_record(record)

    async def _put(self, key: str, body: bytes) -> None:
        delay, degraded = RETRY_SECONDS_MIN, False
        while True:
            try:
                await self._store.create(key, body)
            except StoreUnavailable as refusal:
                if not degraded:
                    self._events.on_archive_degraded(refusal.reason)
                degraded = True
                await asyncio.sleep(self._rng.uniform(delay / 2, delay))
                delay = min(RETRY_SECONDS_MAX, delay * 2)
                continue
            if degraded:
                self._events.on_archive_recovered()
            return
