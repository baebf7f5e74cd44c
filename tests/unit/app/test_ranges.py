from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.archive.store import ObjectMissing, StoredObject, StoreUnavailable, Version
from app.http.ranges import Part, Unsatisfiable, select
from audio.codec import FlacEncoder, wav_header
from tests.support.edge import SESSION, build, client

TAG = '"abc"'


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, 100),
        ("bytes=10-19", 10, 20),
        ("Bytes= 10-19 ", 10, 20),
        ("bytes=90-1000", 90, 100),
        ("bytes=-1", 99, 100),
        ("bytes=-1000", 0, 100),
        ("bytes=99-99", 99, 100),
    ],
)
def test_a_single_range_is_served(header: str, start: int, end: int) -> None:
    part = select(header, None, TAG, 100)
    assert part == Part(start, end, 100, whole=False)
    assert part.content_range == f"bytes {start}-{end - 1}/100"


@pytest.mark.parametrize(
    "header",
    [None, "", "bytes", "bytes=", "bytes=-", "bytes=2-1", "bytes=a-b", "bytes=0-1,4-5", "items=0-1", "bytes=0-1 2",
     "bytes=" + "9" * 30 + "-", "bytes=--1", "bytes=٣-"],
)  # fmt: skip
def test_what_is_no_single_range_is_ignored(header: str | None) -> None:
    assert select(header, None, TAG, 100) == Part(0, 100, 100, whole=True)


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=999999999999-"])
def test_a_range_behind_the_end_cannot_be_satisfied(header: str) -> None:
    with pytest.raises(Unsatisfiable) as caught:
        select(header, None, TAG, 100)
    assert caught.value.content_range == "bytes */100"


@pytest.mark.parametrize(
    ("if_range", "whole"),
    [
        (TAG, False),
        (f" {TAG} ", False),
        ('"old"', True),
        (f"W/{TAG}", True),
        ("Sat, 21 Nov 2026 07:28:00 GMT", True),
    ],
)
def test_a_range_of_another_version_is_the_whole(if_range: str, whole: bool) -> None:
    assert select("bytes=0-9", if_range, TAG, 100).whole is whole


@given(st.text("bytes=-0123456789, ", max_size=24), st.integers(0, 10_000))
def test_any_header_gives_bytes_that_are_there(header: str, size: int) -> None:
    try:
        part = select(header, None, TAG, size)
    except Unsatisfiable:
        return
    assert 0 <= part.start <= part.end <= size
    assert part.whole or part.start < part.end


PCM = random.Random(7).randbytes(2 * 16_000 * 30)  # noqa: S311 - noise, not a secret


def _flac() -> bytes:
    encoder = FlacEncoder(len(PCM) // 2, hashlib.md5(PCM, usedforsecurity=False).digest())
    return encoder.encode(PCM) + encoder.finish()


FLAC = _flac()
WAV = wav_header(len(PCM) // 2) + PCM


@dataclass
class Store:
    """One object; counts what is read of it."""

    data: bytes = FLAC
    read_bytes: int = 0
    largest: int = 0
    fails_after: int = 1 << 40

    async def read(self, key: str, start: int = 0, end: int | None = None) -> StoredObject:
        if key != "north/audio":
            raise ObjectMissing(key, "missing")
        if self.read_bytes > self.fails_after:
            raise StoreUnavailable(key, "the disk is gone")
        piece = self.data[start:end]
        self.read_bytes += len(piece)
        self.largest = max(self.largest, len(piece))
        return StoredObject(piece, Version("1"), len(self.data))


@dataclass
class Audio:
    key: str = "north/audio"
    size: int = len(FLAC)
    samples: int = len(PCM) // 2
    sha256: str = hashlib.sha256(FLAC).hexdigest()


class Sessions:
    def __init__(self, audio: Audio) -> None:
        self._audio = audio

    async def audio(self, principal: Any, session_id: str) -> Audio:
        return self._audio


async def fetch(
    form: str = "flac",
    method: str = "GET",
    store: Store | None = None,
    audio: Audio | None = None,
    **headers: str,
) -> httpx.Response:
    app = build(Sessions(audio or Audio()), store or Store())
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    async with client(app) as http:
        return await http.request(method, f"/v1/sessions/{SESSION}/audio?format={form}", headers=given)


@pytest.mark.parametrize(("form", "whole"), [("flac", FLAC), ("wav", WAV)])
async def test_the_whole_is_served(form: str, whole: bytes) -> None:
    answer = await fetch(form)
    assert (answer.status_code, answer.content) == (200, whole)
    assert answer.headers["content-type"] == f"audio/{form}"
    assert answer.headers["content-length"] == str(len(whole))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-disposition"] == f'attachment; filename="{SESSION}.{form}"'


RANGES = [(0, 0), (0, 43), (40, 50), (43, 44), (44, 44), (45, 45), (44, 45), (1001, 200_000), (131_115, 131_117),
          (900_000, 960_043)]  # fmt: skip


@pytest.mark.parametrize(("first", "last"), RANGES)
@pytest.mark.parametrize(("form", "whole"), [("flac", FLAC), ("wav", WAV)])
async def test_any_range_is_those_bytes(form: str, whole: bytes, first: int, last: int) -> None:
    answer = await fetch(form, Range=f"bytes={first}-{last}")
    assert answer.status_code == 206
    assert answer.content == whole[first : last + 1]
    assert answer.headers["content-range"] == f"bytes {first}-{min(last, len(whole) - 1)}/{len(whole)}"


async def test_each_form_has_a_tag_of_its_own_and_if_range_asks_for_it() -> None:
    flac, wav = (await fetch("flac", "HEAD")).headers["etag"], (await fetch("wav", "HEAD")).headers["etag"]
    assert flac != wav
    assert (await fetch("wav", Range="bytes=0-9", If_Range=wav)).status_code == 206
    assert (await fetch("wav", Range="bytes=0-9", If_Range=flac)).content == WAV


async def test_head_says_how_much_and_reads_nothing() -> None:
    store = Store()
    answer = await fetch("wav", "HEAD", store, Range="bytes=0-9")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(WAV))
    assert store.read_bytes == 0


async def test_a_range_behind_the_end_is_a_problem_that_tells_the_size() -> None:
    answer = await fetch("wav", Range=f"bytes={len(WAV)}-")
    assert (answer.status_code, answer.json()["code"]) == (416, "range_not_satisfiable")
    assert answer.headers["content-range"] == f"bytes */{len(WAV)}"


async def test_a_range_of_a_wav_costs_about_what_it_is_long() -> None:
    store = Store()
    await fetch("wav", store=store, Range="bytes=700000-732000")
    # libFLAC looks for the place by halving: a few reads of 64 KiB beside the range itself.
    assert store.read_bytes < len(FLAC) / 2 + 32_000
    plain = Store()
    await fetch("flac", store=plain, Range="bytes=700000-732000")
    assert plain.read_bytes == 32_001


async def test_pieces_are_bounded() -> None:
    store = Store()
    await fetch("flac", store=store)
    await fetch("wav", store=store)
    assert store.largest <= 262_144


async def test_an_unknown_form_is_refused() -> None:
    assert (await fetch("mp3")).json()["code"] == "invalid_query"


@pytest.mark.parametrize("form", ["flac", "wav"])
async def test_a_store_that_is_away_is_told_before_anything_is_sent(form: str) -> None:
    answer = await fetch(form, store=Store(fails_after=-1))
    assert (answer.status_code, answer.json()["code"]) == (503, "archive_unavailable")
    assert answer.headers["retry-after"]


async def test_a_recording_too_long_for_a_wav_is_refused() -> None:
    answer = await fetch("wav", audio=Audio(samples=1 << 33))
    assert (answer.status_code, answer.json()["code"]) == (422, "too_long_for_wav")
