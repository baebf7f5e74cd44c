"""Archives for tests: the real disk store without its waiting for the disk, a store to interfere with, records by hand."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from unittest import mock

import msgspec
import numpy as np

from app.adapters.disk_store import DiskStore
from app.adapters.local_keys import LocalKeys
from app.archive.records import (
    Base,
    EpochRecord,
    FinalsRecord,
    RangeList,
    SegmentHeader,
    SessionRecord,
    encode_record,
    encode_segment,
    epoch_key,
    finals_key,
    segment_key,
    session_key,
)
from app.archive.store import Body, ListedObject, Store, StoredObject, Version
from audio.transcript import CommittedFinal, Final, Word
from tenants.clinic import ClinicId
from tenants.terms import Recording, SessionRef

REF = SessionRef(ClinicId("north"), "01890a5d-ac96-774b-bcce-b302099a8057")
CREATED_AT = "2026-11-20T09:00:00.000Z"
CREATED_UNIX = 1_795_165_200.0


@asynccontextmanager
async def disk(root: Path) -> AsyncIterator[Store]:
    """The disk store. That it waits for the disk is asked by its own tests, and would be most of what these take."""
    with mock.patch.object(os, "fsync", return_value=None):
        async with DiskStore(root, LocalKeys(bytes(32))) as store:
            yield store


def sound(start: int, end: int, voice: int = 0) -> bytes:
    """Samples that tell where they belong, and whose they are."""
    positions = np.arange(start, end, dtype=np.int64)
    return ((positions * 31 + voice * 7919) % 65_521 - 32_760).astype("<i2").tobytes()


def a_final(number: int, start: int, end: int, text: str | None = None) -> Final:
    text = text or f"w{number}"
    return Final(f"u{number}", start, end, text, (Word(text, start, end, 0.9),), "en-US")


def finals(first: int, last: int, epoch: int = 1, step: int = 100) -> list[CommittedFinal]:
    """Finals ``first`` to ``last``, each ``step`` samples after the one before and half as long."""
    return [
        CommittedFinal(seq, epoch, a_final(seq, (seq - 1) * step, (seq - 1) * step + step // 2))
        for seq in range(first, last + 1)
    ]


@dataclass
class Scribe:
    """Writes a session's records as owners do, wherever a test wants them."""

    store: Store
    ref: SessionRef = REF

    async def session(self, recording: Recording = "audio+transcript", **fields: object) -> SessionRecord:
        record = SessionRecord(
            self.ref.session_id, self.ref.clinic_id, CREATED_AT, "dr.a", "en-US", recording=recording
        )
        record = msgspec.structs.replace(record, **fields)
        await self.store.create(session_key(self.ref), encode_record(record))
        return record

    async def epoch(
        self,
        number: int,
        base: tuple[int, int] | None,
        *,
        serial: int = 0,
        adopted: Sequence[CommittedFinal] = (),
        live: RangeList | None = None,
        settled: int = 0,
    ) -> None:
        record = EpochRecord(
            number,
            "task-a",
            "speaker",
            CREATED_AT,
            serial=serial,
            base=Base(*base) if base is not None else None,
            finals=list(adopted),
            live=live or [],
            settled=settled,
        )
        await self.store.create(epoch_key(self.ref, number), encode_record(record))

    async def segment(
        self,
        epoch: int,
        first: int,
        end: int,
        *,
        seq: int = 0,
        carried: Sequence[CommittedFinal] = (),
        live: RangeList | None = None,
        settled: int = 0,
        voice: int = 0,
    ) -> None:
        pcm = sound(first, end, voice)
        header = SegmentHeader(
            epoch=epoch,
            seq=carried[-1].seq if carried else seq,
            finals=list(carried),
            live=live or [],
            settled=settled,
            first=first,
            samples=end - first,
            sha256=sha256(pcm).hexdigest(),
        )
        key = segment_key(self.ref, first, epoch)
        await self.store.create(key, encode_segment(header, [memoryview(pcm)]))

    async def note(
        self,
        epoch: int,
        carried: Sequence[CommittedFinal],
        *,
        live: RangeList | None = None,
        settled: int = 0,
    ) -> None:
        record = FinalsRecord(epoch, carried[-1].seq, list(carried), live or [], settled)
        await self.store.create(finals_key(self.ref, carried[0].seq, epoch), encode_record(record))


Hook = Callable[[str, str], Awaitable[None]]


async def _nothing(verb: str, key: str) -> None:
    del verb, key


@dataclass
class WatchedStore:
    """A store whose calls can be counted and interfered with.

    Attributes:
        before, after: awaited with the verb and the key; what they raise is raised. What ``after`` raises is a lost
            answer: the call was carried out. A listing counts when it begins.
        calls: verb and key of each call, in order of their beginning.
    """

    inner: Store
    before: Hook = _nothing
    after: Hook = _nothing
    calls: list[tuple[str, str]] = field(default_factory=list)

    async def create(self, key: str, body: Body) -> Version:
        await self._begin("create", key)
        version = await self.inner.create(key, body)
        await self.after("create", key)
        return version

    async def replace(self, key: str, data: bytes, expected: Version) -> Version:
        await self._begin("replace", key)
        version = await self.inner.replace(key, data, expected)
        await self.after("replace", key)
        return version

    async def read(self, key: str, start: int = 0, end: int | None = None) -> StoredObject:
        await self._begin("read", key)
        found = await self.inner.read(key, start, end)
        await self.after("read", key)
        return found

    async def list(self, prefix: str, *, delimiter: str = "", after: str = "") -> AsyncIterator[ListedObject]:
        await self._begin("list", prefix)
        async for row in self.inner.list(prefix, delimiter=delimiter, after=after):
            yield row
        await self.after("list", prefix)

    async def delete(self, key: str) -> None:
        await self._begin("delete", key)
        await self.inner.delete(key)
        await self.after("delete", key)

    async def _begin(self, verb: str, key: str) -> None:
        self.calls.append((verb, key))
        await self.before(verb, key)


async def names(store: Store, ref: SessionRef = REF) -> list[str]:
    """What the session's folder holds."""
    prefix = f"{ref.clinic_id}/{ref.session_id}/"
    return [row.key.removeprefix(prefix) async for row in store.list(prefix)]
