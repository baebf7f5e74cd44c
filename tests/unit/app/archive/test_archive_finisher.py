from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from app.archive.finisher import BLOCK_SAMPLES, Finish, FinishLost, clean_up, finish, is_cleaned_up
from app.archive.reader import load_history, read_finals, read_manifest
from app.archive.records import (
    Manifest,
    ManifestObject,
    TranscriptRecord,
    audio_name,
    decode_record,
    encode_record,
    folder,
    manifest_key,
    segment_key,
)
from app.archive.store import ObjectCorrupt, ObjectMissing, StoreUnavailable
from audio.codec import FlacReader
from audio.coverage import Ranges
from audio.transcript import CommittedFinal
from tests.support.archives import REF, Hook, Scribe, WatchedStore, disk, finals, names, sound

NOW = "2026-11-20T09:30:00.000Z"
SAMPLES = 200_000
"""More than three blocks of the encoder, in segments of 80 000."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[WatchedStore]:
    async with disk(tmp_path) as inner:
        yield WatchedStore(inner)


@pytest.fixture
def scribe(store: WatchedStore) -> Scribe:
    return Scribe(store)


async def spoken(scribe: Scribe, *, epoch: int = 1, samples: int = SAMPLES) -> None:
    """A session of one owner, with finals in segments and one that travelled alone."""
    await scribe.session()
    await scribe.epoch(epoch, (0, 0), serial=5)
    for n, first in enumerate(range(0, samples, 80_000)):
        end = min(samples, first + 80_000)
        await scribe.segment(epoch, first, end, carried=finals(n + 1, n + 1, epoch), live=[(0, end)])
    await scribe.note(epoch, finals(4, 4, epoch))


def order(
    epoch: int, *, live: int = SAMPLES, made: int = 4, reason: str = "stopped", samples: int = 0
) -> Finish:
    return Finish(
        REF, epoch, reason, finals(1, made), Ranges([(0, live)] if live else []), NOW, samples=samples
    )


async def audio_of(store: WatchedStore, manifest: Manifest) -> bytes:
    assert manifest.audio is not None
    data = (await store.inner.read(folder(REF) + manifest.audio.name)).data
    assert (len(data), hashlib.sha256(data).hexdigest()) == (manifest.audio.size, manifest.audio.sha256)
    reader = FlacReader(io.BytesIO(data))
    pcm = reader.read(0, reader.samples)
    reader.close()
    assert hashlib.sha256(pcm).hexdigest() == manifest.audio_sha256
    assert len(pcm) == 2 * manifest.samples
    return pcm


async def transcript_of(store: WatchedStore, manifest: Manifest) -> list[CommittedFinal]:
    assert manifest.transcript is not None
    data = (await store.inner.read(folder(REF) + manifest.transcript.name)).data
    assert hashlib.sha256(data).hexdigest() == manifest.transcript.sha256
    return decode_record("t", data, TranscriptRecord).finals


def left(epoch: int, *epochs: int) -> list[str]:
    """All that a finished session has."""
    kept = [f"epochs/{n}.json" for n in sorted({epoch, *epochs})]
    return [f"audio-{epoch}.flac", *kept, "manifest.json", "session.json", f"transcript-{epoch}.json"]


def content(manifest: Manifest) -> tuple[object, ...]:
    """What must not depend on who finished, and how often it was tried."""
    assert manifest.audio is not None
    return (
        manifest.samples,
        manifest.audio_sha256,
        (manifest.audio.size, manifest.audio.sha256),
        manifest.transcript and manifest.transcript.sha256,
        manifest.coverage,
        manifest.finals,
        manifest.started_at,
    )


# What is made ---------------------------------------------------------------------------------------------------------


async def test_segments_become_one_flac_one_transcript_and_a_manifest(
    store: WatchedStore, scribe: Scribe
) -> None:
    await spoken(scribe)
    manifest = await finish(store, order(1))
    assert await audio_of(store, manifest) == sound(0, SAMPLES)
    assert await transcript_of(store, manifest) == finals(1, 4)
    assert (manifest.epoch, manifest.state, manifest.reason, manifest.finished_at) == (
        1,
        "completed",
        "stopped",
        NOW,
    )
    assert (manifest.samples, manifest.finals) == (SAMPLES, 4)
    assert manifest.coverage == {
        "archived": [(0, SAMPLES)],
        "live": [(0, SAMPLES)],
        "filled": [],
        "untranscribed": [],
        "missing": [],
    }
    assert await names(store) == left(1)
    found = await read_manifest(store, REF)
    assert found is not None
    assert found[0] == manifest


async def test_a_finished_session_reads_as_it_did_before(store: WatchedStore, scribe: Scribe) -> None:
    await spoken(scribe)
    before = await load_history(store, REF)
    assert before is not None
    said = await read_finals(store, REF, before)
    await finish(store, order(1))
    after = await load_history(store, REF)
    assert after is not None
    assert after.finished
    assert is_cleaned_up(after)
    assert (after.end, after.seq) == (before.end, before.seq)
    assert await read_finals(store, REF, after) == said
    assert await read_finals(store, REF, after, after=2) == said[2:]


async def test_what_no_engine_heard_is_untranscribed(store: WatchedStore, scribe: Scribe) -> None:
    await spoken(scribe)
    manifest = await finish(store, order(1, live=50_000))
    assert manifest.coverage["untranscribed"] == [(50_000, SAMPLES)]


async def test_a_session_without_a_sample_has_no_flac(store: WatchedStore, scribe: Scribe) -> None:
    await scribe.session()
    await scribe.epoch(1, (0, 0))
    manifest = await finish(store, order(1, live=0, made=0))
    assert (manifest.samples, manifest.audio, manifest.started_at) == (0, None, None)
    assert manifest.audio_sha256 == hashlib.sha256().hexdigest()
    assert await names(store) == ["epochs/1.json", "manifest.json", "session.json", "transcript-1.json"]


async def test_a_transcript_only_session_tells_what_the_engine_never_took(
    store: WatchedStore, scribe: Scribe
) -> None:
    await scribe.session("transcript")
    await scribe.epoch(1, (0, 0))
    await scribe.note(1, finals(1, 4))
    manifest = await finish(store, order(1, live=300, samples=1000))
    assert (manifest.samples, manifest.audio, manifest.audio_sha256) == (1000, None, None)
    assert (manifest.coverage["archived"], manifest.coverage["live"], manifest.coverage["missing"]) == (
        [],
        [(0, 300)],
        [(300, 1000)],
    )
    assert await names(store) == ["epochs/1.json", "manifest.json", "session.json", "transcript-1.json"]


# What is damaged ------------------------------------------------------------------------------------------------------


async def test_a_hole_becomes_silence_and_is_missing(store: WatchedStore, scribe: Scribe) -> None:
    await spoken(scribe)
    await store.delete(segment_key(REF, 80_000, 1))
    manifest = await finish(store, order(1))
    assert await audio_of(store, manifest) == sound(0, 80_000) + bytes(160_000) + sound(160_000, SAMPLES)
    assert manifest.coverage["missing"] == [(80_000, 160_000)]
    assert manifest.coverage["archived"] == [(0, 80_000), (160_000, SAMPLES)]
    assert manifest.coverage["live"] == [(0, SAMPLES)]


async def test_a_hole_at_the_beginning_counts_as_well(store: WatchedStore, scribe: Scribe) -> None:
    await spoken(scribe)
    await store.delete(segment_key(REF, 0, 1))
    manifest = await finish(store, order(1))
    assert (await audio_of(store, manifest))[: 2 * 80_000] == bytes(160_000)
    assert manifest.coverage["missing"] == [(0, 80_000)]


@pytest.mark.parametrize("error", [ObjectCorrupt, ObjectMissing])
async def test_a_segment_whose_audio_cannot_be_read_becomes_silence(
    store: WatchedStore, scribe: Scribe, error: type[ObjectCorrupt | ObjectMissing]
) -> None:
    await spoken(scribe)
    key, reads = segment_key(REF, 80_000, 1), 0

    async def damaged(verb: str, name: str) -> None:
        nonlocal reads
        if verb == "read" and name == key:
            reads += 1
            if reads > 1:  # The first is of its header.
                raise error(key, "damaged")

    store.before = damaged
    manifest = await finish(store, order(1))
    assert await audio_of(store, manifest) == sound(0, 80_000) + bytes(160_000) + sound(160_000, SAMPLES)
    assert manifest.coverage["missing"] == [(80_000, 160_000)]


async def test_a_damaged_byte_on_the_disk_costs_its_segment_only(
    store: WatchedStore, scribe: Scribe, tmp_path: Path
) -> None:
    await spoken(scribe)
    path = tmp_path / segment_key(REF, 80_000, 1)
    raw = bytearray(path.read_bytes())
    raw[100_000] ^= 1
    path.write_bytes(raw)
    manifest = await finish(store, order(1))
    assert manifest.coverage["missing"] == [(80_000, 160_000)]


async def test_a_session_whose_finished_audio_is_lost_is_left_as_it_is(
    store: WatchedStore, scribe: Scribe
) -> None:
    await spoken(scribe)
    await finish(store, order(1, reason="abandoned"))
    await store.delete(folder(REF) + audio_name(1))
    await scribe.epoch(2, (SAMPLES, 4))
    await scribe.segment(2, SAMPLES, SAMPLES + 1000)
    with pytest.raises(ObjectMissing):
        await finish(store, order(2))
    assert "segments/000000200000-2" in await names(store)


# Reopened -------------------------------------------------------------------------------------------------------------


async def test_a_reopened_session_is_finished_again_with_what_was_added(
    store: WatchedStore, scribe: Scribe
) -> None:
    await spoken(scribe)
    await finish(store, order(1, reason="abandoned"))
    await scribe.epoch(2, (SAMPLES, 4), serial=6)
    await scribe.segment(2, SAMPLES, SAMPLES + 90_000, carried=finals(5, 6, 2))
    manifest = await finish(store, order(2, live=SAMPLES + 90_000, made=6))
    assert await audio_of(store, manifest) == sound(0, SAMPLES + 90_000)
    assert await transcript_of(store, manifest) == finals(1, 6)
    assert manifest.coverage["missing"] == []
    assert await names(store) == left(2, 1)


async def test_what_was_missing_stays_missing_when_it_is_reopened(
    store: WatchedStore, scribe: Scribe
) -> None:
    await spoken(scribe)
    await store.delete(segment_key(REF, 0, 1))
    await finish(store, order(1, reason="abandoned"))
    await scribe.epoch(2, (SAMPLES, 4))
    await scribe.segment(2, SAMPLES, SAMPLES + 1000)
    manifest = await finish(store, order(2))
    assert manifest.coverage["missing"] == [(0, 80_000)]
    assert manifest.samples == SAMPLES + 1000


async def test_audio_that_was_finished_after_the_cut_is_not_the_sessions(
    store: WatchedStore, scribe: Scribe
) -> None:
    # The owner of epoch 1 finished while 2 claimed: 2 read the history before the last segment of 1.
    await spoken(scribe)
    await finish(store, order(1))
    await scribe.epoch(2, (160_000, 4))
    await scribe.segment(2, 160_000, 170_000, voice=2)
    manifest = await finish(store, order(2))
    assert await audio_of(store, manifest) == sound(0, 160_000) + sound(160_000, 170_000, 2)


async def test_a_session_may_be_reopened_and_finished_without_a_word(
    store: WatchedStore, scribe: Scribe
) -> None:
    await spoken(scribe)
    first = await finish(store, order(1, reason="abandoned"))
    await scribe.epoch(2, (SAMPLES, 4))
    second = await finish(store, order(2))
    assert content(first) == content(second)
    assert await names(store) == left(2, 1)


# Interrupted ----------------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    """The process dies here."""


def at_call(nth: int, act: Callable[[str], Awaitable[None]]) -> Hook:
    """Act at the ``nth`` time that the hook is called."""
    count = 0

    async def hook(verb: str, key: str) -> None:
        nonlocal count
        count += 1
        if count == nth:
            await act(f"{verb} {key}")

    return hook


async def die(_: str) -> None:
    raise Interrupted


async def lose_the_answer(call: str) -> None:
    raise StoreUnavailable(call, "no answer")


async def undisturbed(root: Path, when: str) -> tuple[int, tuple[object, ...]]:
    """How many moments there are to be interrupted in, and what comes of it without."""
    count = 0

    async def counting(verb: str, key: str) -> None:
        del verb, key
        nonlocal count
        count += 1

    async with disk(root) as inner:
        store = WatchedStore(inner)
        await spoken(Scribe(inner))
        setattr(store, when, counting)
        manifest = await finish(store, order(1))
        return count, content(manifest)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_interrupted_anywhere_a_newer_epoch_ends_with_the_same(tmp_path: Path, when: str) -> None:
    count, expected = await undisturbed(tmp_path / "whole", when)
    for nth in range(1, count + 1):
        async with disk(tmp_path / str(nth)) as inner:
            scribe, store = Scribe(inner), WatchedStore(inner)
            await spoken(scribe)
            setattr(store, when, at_call(nth, die))
            with pytest.raises(Interrupted):
                await finish(store, order(1))
            await scribe.epoch(2, (SAMPLES, 4))
            manifest = await finish(inner, order(2))
            assert content(manifest) == expected, nth
            assert await names(inner) == left(2, 1), nth


async def test_interrupted_anywhere_the_same_epoch_may_try_again(tmp_path: Path) -> None:
    count, expected = await undisturbed(tmp_path / "whole", "after")
    for nth in range(1, count + 1):
        async with disk(tmp_path / str(nth)) as inner:
            store = WatchedStore(inner)
            await spoken(Scribe(inner))
            store.after = at_call(nth, lose_the_answer)
            with pytest.raises(StoreUnavailable):
                await finish(store, order(1))
            manifest = await finish(store, order(1))
            assert content(manifest) == expected, nth
            assert await names(inner) == left(1), nth


async def test_cancelled_anywhere_a_newer_epoch_ends_with_the_same(tmp_path: Path) -> None:
    count, expected = await undisturbed(tmp_path / "whole", "after")
    for nth in range(1, count + 1):
        async with disk(tmp_path / str(nth)) as inner:
            scribe, store = Scribe(inner), WatchedStore(inner)
            await spoken(scribe)
            reached = asyncio.Event()

            async def hang(_: str, at: asyncio.Event = reached) -> None:
                at.set()
                await asyncio.Event().wait()

            store.after = at_call(nth, hang)
            async with asyncio.TaskGroup() as group:
                finishing = group.create_task(finish(store, order(1)))
                await reached.wait()
                finishing.cancel()
            await scribe.epoch(2, (SAMPLES, 4))
            manifest = await finish(inner, order(2))
            assert content(manifest) == expected, nth
            assert await names(inner) == left(2, 1), nth


# Others ---------------------------------------------------------------------------------------------------------------


async def test_finishing_is_lost_to_a_newer_manifest(store: WatchedStore, scribe: Scribe) -> None:
    await spoken(scribe)
    await scribe.epoch(2, (SAMPLES, 4))
    await finish(store, order(2))
    before = await names(store)
    with pytest.raises(FinishLost):
        await finish(store, order(1))
    assert await names(store) == before


async def test_finishing_is_lost_to_a_newer_owner(store: WatchedStore, scribe: Scribe) -> None:
    await spoken(scribe)
    await scribe.epoch(2, (160_000, 2))
    with pytest.raises(FinishLost):
        await finish(store, order(1))
    assert "manifest.json" not in await names(store)


async def test_a_claim_that_promised_nothing_does_not_stop_the_owner(
    store: WatchedStore, scribe: Scribe
) -> None:
    await spoken(scribe)
    await scribe.epoch(2, None)
    manifest = await finish(store, order(1))
    assert manifest.samples == SAMPLES
    assert await names(store) == left(1, 2)


async def test_a_session_that_is_gone_cannot_be_finished(store: WatchedStore) -> None:
    with pytest.raises(FinishLost):
        await finish(store, order(1))


async def unless_lost(store: WatchedStore) -> None:
    with contextlib.suppress(FinishLost):
        await finish(store, order(1))


@pytest.mark.parametrize("nth", range(1, 22))
async def test_an_older_epoch_that_finishes_late_takes_nothing_from_the_newer_one(
    tmp_path: Path, nth: int
) -> None:
    # 1 began to finish before 2 had a base, and is through with everything, segments and all, at any moment of 2's work.
    async with disk(tmp_path) as inner:
        scribe, store = Scribe(inner), WatchedStore(inner)
        await spoken(scribe)
        old = WatchedStore(inner)
        ready, go = asyncio.Event(), asyncio.Event()

        async def pause_before_the_manifest(verb: str, key: str) -> None:
            if verb == "create" and key == manifest_key(REF):
                ready.set()
                await go.wait()

        old.before = pause_before_the_manifest
        async with asyncio.TaskGroup() as group:
            late = group.create_task(unless_lost(old))
            await ready.wait()
            await scribe.epoch(2, (SAMPLES, 4))

            async def let_it_through(_: str) -> None:
                go.set()
                await asyncio.wait([late])

            store.before = at_call(nth, let_it_through)
            manifest = await finish(store, order(2))
            go.set()
            await asyncio.wait([late])
        assert await audio_of(store, manifest) == sound(0, SAMPLES)
        assert manifest.coverage["missing"] == []
        assert await transcript_of(store, manifest) == finals(1, 4)
        assert manifest.epoch == 2
        kept = [
            name for name in await names(inner) if not name.endswith(("audio-1.flac", "transcript-1.json"))
        ]
        assert kept == left(2, 1)


async def test_two_that_finish_at_once_end_with_one_manifest_and_all_of_the_audio(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        scribe = Scribe(inner)
        await spoken(scribe)
        await scribe.epoch(2, None)
        await scribe.epoch(3, (SAMPLES, 4))
        results = await asyncio.gather(*(finish(inner, order(n)) for n in (1, 3, 2)), return_exceptions=True)
        assert isinstance(results[1], Manifest)
        found = await read_manifest(inner, REF)
        assert found is not None
        assert found[0] == results[1]
        assert await audio_of(WatchedStore(inner), found[0]) == sound(0, SAMPLES)
        assert [isinstance(r, FinishLost) for r in results] == [True, False, True]


async def test_cleaning_up_leaves_what_is_newer(store: WatchedStore, scribe: Scribe) -> None:
    await spoken(scribe)
    manifest = await finish(store, order(1))
    await scribe.epoch(2, (SAMPLES, 4))
    await scribe.segment(2, SAMPLES, SAMPLES + 10)
    await scribe.note(2, finals(5, 5, 2))
    await store.create(folder(REF) + "audio-2.flac", b"being written by 2")
    before = await names(store)
    await clean_up(store, REF, manifest)
    assert await names(store) == before


@pytest.mark.parametrize(
    "left_over", ["segments/000000000000-1", "finals/000000000004-1.json", "audio-0.flac"]
)
async def test_what_a_finisher_left_behind_is_noticed(
    store: WatchedStore, scribe: Scribe, left_over: str
) -> None:
    await spoken(scribe)
    await finish(store, order(1))
    await store.create(folder(REF) + left_over, b"x")
    history = await load_history(store, REF)
    assert history is not None
    assert not is_cleaned_up(history)


async def test_a_session_that_goes_on_has_nothing_to_clean_up(store: WatchedStore, scribe: Scribe) -> None:
    await spoken(scribe)
    history = await load_history(store, REF)
    assert history is not None
    assert is_cleaned_up(history)


async def test_a_manifest_of_the_same_epoch_is_kept_and_cleaned_up_after(
    store: WatchedStore, scribe: Scribe
) -> None:
    await spoken(scribe)
    first = await finish(store, order(1))
    await store.create(segment_key(REF, 0, 1), b"left over")
    again = await finish(store, order(1, made=0))
    assert again == first
    assert await names(store) == left(1)


async def test_the_sample_count_of_a_block_border_is_exact(store: WatchedStore, scribe: Scribe) -> None:
    for samples in (BLOCK_SAMPLES, BLOCK_SAMPLES + 1):
        await spoken(scribe, samples=samples)
        manifest = await finish(store, order(1))
        assert await audio_of(store, manifest) == sound(0, samples)
        for name in await names(store):
            await store.delete(folder(REF) + name)


def test_a_manifest_object_names_what_it_stands_for() -> None:
    assert msgspec.json.decode(encode_record(ManifestObject("audio-1.flac", 1, "ab"))) == {
        "name": "audio-1.flac",
        "size": 1,
        "sha256": "ab",
    }
