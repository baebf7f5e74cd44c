from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.archive.records import segment_key
from app.archive.store import StoreUnavailable
from app.sessions.log_tail import Fenced
from app.sessions.ownership import Claim, Claimant, claim
from app.sessions.parts import REPLAY_SAMPLES, Parts, assemble
from audio.engine import Engine
from audio.engines.null import NullEngine
from audio.ring import RING_SAMPLES
from tests.support.archives import REF, Scribe, disk, finals, sound
from tests.support.inline_loop import in_virtual_time
from tests.support.scripted_engine import ScriptedEngine
from tests.support.session_world import World

SECOND = 16_000


@asynccontextmanager
async def archive(root: Path, engine: Engine | None = None) -> AsyncIterator[tuple[World, Scribe]]:
    async with disk(root) as inner:
        yield World(inner, engine=engine or ScriptedEngine()), Scribe(inner)


async def built(world: World, serial: int = 10) -> tuple[Claim, Parts]:
    won = await claim(world.store, world.log, REF, Claimant("t", "speaker", "now", serial))
    return won, await assemble(world.deps, REF, won)


def content(parts: Parts) -> bytes:
    return b"".join(parts.ring.view(parts.ring.oldest, parts.ring.head))


@in_virtual_time
async def test_a_new_session_begins_with_an_empty_ring(tmp_path: Path) -> None:
    async with archive(tmp_path) as (world, scribe):
        await scribe.session()
        _, parts = await built(world)
        assert (parts.ring.head, parts.ring.window, parts.recorder.durable) == (0, RING_SAMPLES, 0)
        assert not parts.ring.allocated
        assert parts.transcriber is not None


@in_virtual_time
async def test_what_was_not_settled_is_read_back_for_the_engine(tmp_path: Path) -> None:
    async with archive(tmp_path) as (world, scribe):
        await scribe.session()
        await scribe.epoch(1, (0, 0))
        for first in range(0, 10 * SECOND, 5 * SECOND):
            await scribe.segment(1, first, first + 5 * SECOND, live=[(0, 4 * SECOND)], settled=4 * SECOND)
        _, parts = await built(world)
        assert (parts.ring.oldest, parts.ring.head) == (4 * SECOND, 10 * SECOND)
        assert content(parts) == sound(4 * SECOND, 10 * SECOND)
        assert parts.recorder.durable == 10 * SECOND
        assert parts.ring.window == RING_SAMPLES - 6 * SECOND
        assert parts.transcriber is not None
        assert (parts.transcriber.sent, parts.transcriber.settled) == (4 * SECOND, 4 * SECOND)
        assert list(parts.notes.live) == [(0, 4 * SECOND)]


@in_virtual_time
async def test_no_more_is_read_back_than_leaves_half_the_window_open(tmp_path: Path) -> None:
    async with archive(tmp_path) as (world, scribe):
        await scribe.session()
        await scribe.epoch(1, (0, 0))
        for first in range(0, 40 * SECOND, 5 * SECOND):
            await scribe.segment(1, first, first + 5 * SECOND)
        _, parts = await built(world)
        assert parts.ring.oldest == 40 * SECOND - REPLAY_SAMPLES
        assert parts.ring.window == RING_SAMPLES - REPLAY_SAMPLES
        assert content(parts) == sound(40 * SECOND - REPLAY_SAMPLES, 40 * SECOND)


@in_virtual_time
async def test_a_hole_is_silence_to_the_engine(tmp_path: Path) -> None:
    async with archive(tmp_path) as (world, scribe):
        await scribe.session()
        await scribe.epoch(1, (0, 0))
        for first in range(0, 3 * SECOND, SECOND):
            await scribe.segment(1, first, first + SECOND)
        await world.store.delete(segment_key(REF, SECOND, 1))
        _, parts = await built(world)
        assert content(parts) == sound(0, SECOND) + bytes(2 * SECOND) + sound(2 * SECOND, 3 * SECOND)


@in_virtual_time
async def test_without_an_engine_that_transcribes_nothing_is_read_back(tmp_path: Path) -> None:
    async with archive(tmp_path, NullEngine()) as (world, scribe):
        await scribe.session()
        await scribe.epoch(1, (0, 0))
        await scribe.segment(1, 0, SECOND)
        _, parts = await built(world)
        assert (parts.ring.oldest, parts.ring.head, parts.transcriber) == (SECOND, SECOND, None)
        assert parts.ring.window == RING_SAMPLES


@in_virtual_time
async def test_a_session_that_keeps_no_audio_reads_none_back(tmp_path: Path) -> None:
    async with archive(tmp_path) as (world, scribe):
        await scribe.session("transcript")
        await scribe.epoch(1, (0, 0))
        await scribe.note(1, finals(1, 2))
        won, parts = await built(world)
        assert (parts.ring.oldest, parts.ring.head) == (won.base.position, won.base.position)
        assert parts.recorder.durable == finals(2, 2)[0].final.end


@in_virtual_time
async def test_result_ids_go_on_after_the_last_finals(tmp_path: Path) -> None:
    async with archive(tmp_path) as (world, scribe):
        await scribe.session()
        await scribe.epoch(1, (0, 0))
        await world.log.announce(REF, 1, 0, "a")
        await world.log.commit(REF, 1, finals(1, 7))
        await scribe.segment(1, 0, SECOND, carried=finals(1, 4), settled=SECOND)
        for serial in (10, 11):  # Adopted from the log the first time, read from the archive the second.
            _, parts = await built(world, serial)
            assert parts.book.numbered == 7
            assert parts.transcriber is not None
            assert parts.transcriber._hearing._ids._next == 8


@in_virtual_time
async def test_an_owner_asks_again_until_the_archive_says_whether_it_is_one(tmp_path: Path) -> None:
    async with archive(tmp_path) as (world, scribe):
        await scribe.session()
        _, parts = await built(world)

        async def away(verb: str, key: str) -> None:
            if world.deps.clock() < 10:
                raise StoreUnavailable(key, verb)

        world.store.before = away
        await parts.recorder._confirm()
        assert world.deps.clock() >= 10
        await scribe.epoch(2, None)
        with pytest.raises(Fenced):
            await parts.recorder._confirm()


@in_virtual_time
async def test_what_was_heard_of_audio_that_comes_again_stays_heard(tmp_path: Path) -> None:
    async with archive(tmp_path) as (world, scribe):
        await scribe.session()
        await scribe.epoch(1, (0, 0))
        await world.log.announce(REF, 1, 0, "t")
        await scribe.segment(1, 0, 120, live=[(0, 100)], settled=100)
        await world.log.commit(REF, 1, finals(1, 2))  # The second ends beyond what is durable.
        won, parts = await built(world)
        assert (won.base.position, won.base.seq) == (120, 2)
        assert list(parts.notes.live) == [(0, 150)]
