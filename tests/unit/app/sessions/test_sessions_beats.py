from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.archive.records import decode_record
from app.archive.store import Store, StoreUnavailable
from app.archive.tasks import TASKS, TaskRecord, name_of
from app.archive.verify import verify
from app.sessions.deps import SessionLimits
from tenants.clinic import ClinicId
from tenants.terms import SessionRef
from tests.support.archives import REF, Scribe, disk, names, sound
from tests.support.inline_loop import in_virtual_time
from tests.support.memory_log import MemoryLog
from tests.support.session_world import Rows, Speaker, World

SECOND = 16_000
WINDOW = 120.0
LIMITS = SessionLimits(resume_window_seconds=WINDOW)
OTHER = SessionRef(ClinicId("north"), "01890a5d-ac96-774b-bcce-b302099a8058")


@asynccontextmanager
async def tasks(root: Path, *, together: int = 2, seed: int = 0) -> AsyncIterator[list[World]]:
    """Several tasks on one store, log and list, with a session that waits for its speaker."""
    async with disk(root) as inner:
        await Scribe(inner).session()
        log, rows = MemoryLog(), Rows()
        worlds = [
            World(inner, task=f"task-{n}", log=log, rows=rows, limits=LIMITS, seed=seed)
            for n in range(together)
        ]
        async with asyncio.TaskGroup() as group:
            over, running = asyncio.Event(), [asyncio.Event() for _ in worlds]
            for world, runs in zip(worlds, running, strict=True):
                group.create_task(run(world, runs, over))
            for runs in running:
                await runs.wait()
            try:
                yield worlds
            finally:
                over.set()


async def run(world: World, runs: asyncio.Event, over: asyncio.Event) -> None:
    async with world.running():
        runs.set()
        await over.wait()
        revive(world)


def kill(world: World) -> None:
    """Nothing of the task reaches the archive any more."""

    async def never(verb: str, key: str) -> None:
        await asyncio.Event().wait()

    world.store.before = never


def revive(world: World) -> None:
    world.store.before = type(world.store)(world.inner).before


async def records(store: Store) -> dict[str, TaskRecord]:
    keys = [row.key async for row in store.list(TASKS)]
    return {key: decode_record(key, (await store.read(key)).data, TaskRecord) for key in keys}


async def record(store: Store, task: str) -> TaskRecord | None:
    found = await records(store)
    return next((record for record in found.values() if record.task == task), None)


async def stay(speaker: Speaker, seconds: float) -> None:
    """Say nothing, but stay."""
    for _ in range(int(seconds / 20)):
        speaker.text(type="ping")
        await asyncio.sleep(20)


# Telling --------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_task_tells_what_it_has_and_that_it_lives(tmp_path: Path) -> None:
    async with tasks(tmp_path, together=1) as (world,):
        await asyncio.sleep(30)
        assert await records(world.inner) == {}
        speaker = await world.speaker()
        await asyncio.sleep(1.5)
        first = await record(world.inner, "task-0")
        assert first is not None
        assert (first.sessions, first.watched) == ([name_of(REF)], [])
        world.manager.orphans.watch(OTHER, 1000)
        await asyncio.sleep(1.5)
        second = await record(world.inner, "task-0")
        assert second is not None
        assert (second.sessions, second.watched) == ([name_of(REF)], [name_of(OTHER)])
        world.store.calls.clear()
        await stay(speaker, 300)
        beats = [key for verb, key in world.store.calls if verb == "replace" and key.startswith(TASKS)]
        assert 15 <= len(beats) <= 21
        third = await record(world.inner, "task-0")
        assert third is not None
        assert third.beat > second.beat > first.beat
        speaker.text(type="stop")
        await speaker.until("completed")
        world.manager.orphans.drop(OTHER)
        await asyncio.sleep(2)
        assert await records(world.inner) == {}


@in_virtual_time
async def test_a_beat_that_fails_is_no_catastrophe(tmp_path: Path) -> None:
    async with tasks(tmp_path) as (one, two):
        speaker = await one.speaker()
        await asyncio.sleep(20)

        async def fail(verb: str, key: str) -> None:
            if key.startswith(TASKS):
                raise StoreUnavailable(key, verb)

        one.store.before = fail
        await stay(speaker, 60)
        revive(one)
        await stay(speaker, 400)
        assert one.manager.owned(REF) is speaker.session
        assert not (await one.history()).finished
        assert len(two.manager.orphans) == 0
        assert two.manager.is_elsewhere(REF)


# Others ---------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_session_that_is_silent_is_its_owners_and_when_that_one_dies_it_has_a_whole_window(
    tmp_path: Path,
) -> None:
    async with tasks(tmp_path) as (one, two):
        speaker = await one.speaker()
        await speaker.say(sound(0, 3 * SECOND))
        # As another task does that has just read the archive.
        two.manager.orphans.watch_new(REF, WINDOW, history=await two.history())
        await stay(speaker, 5 * WINDOW)
        assert not (await two.history()).finished
        assert two.manager.is_elsewhere(REF)
        assert len(two.manager.orphans) == 0

        kill(one)
        died = two.deps.clock()
        while not (await two.history()).finished:
            await asyncio.sleep(1)
            assert two.deps.clock() < died + 1.5 * WINDOW
        assert two.deps.clock() >= died + WINDOW
        manifest = (await two.history()).manifest
        assert manifest is not None
        assert (manifest.samples, manifest.reason) == (3 * SECOND, "abandoned")
        await asyncio.sleep(WINDOW)
        # What the dead one told is taken away.
        assert await records(two.inner) == {}
        revive(one)
        await asyncio.sleep(20)
        assert one.manager.owned(REF) is None
        assert (await one.history()).manifest == manifest


@pytest.mark.parametrize("seed", [0, 1])
def test_several_who_find_the_same_session_finish_it_once(tmp_path: Path, seed: int) -> None:
    """At different moments, and with the same ``seed`` all at once."""

    @in_virtual_time
    async def scenario() -> None:
        async with tasks(tmp_path, together=4, seed=seed) as (one, *others):
            speaker = await one.speaker()
            await speaker.say(sound(0, SECOND))
            await asyncio.sleep(20)
            kill(one)
            await asyncio.sleep(2 * WINDOW)
            verdict = await verify(one.inner, REF)
            assert verdict is not None
            assert (verdict.samples, verdict.faults) == (SECOND, [])
            left = [name.partition("-")[0] for name in await names(one.inner)]
            assert [name for name in left if not name.startswith("epochs/")] == [
                "audio",
                "manifest.json",
                "session.json",
                "transcript",
            ]
            assert seed or left.count("epochs/2.json") + left.count("epochs/3.json") == 1
            assert [len(other.manager.orphans) for other in others] == [0, 0, 0]
            revive(one)

    scenario()


@in_virtual_time
async def test_what_a_dead_task_watched_is_found_too(tmp_path: Path) -> None:
    async with tasks(tmp_path) as (one, two):
        await Scribe(two.inner, OTHER).session()
        one.manager.orphans.watch(OTHER, LIMITS.created_seconds, history=await one.history(OTHER))
        await asyncio.sleep(20)
        kill(one)
        await asyncio.sleep(LIMITS.created_seconds + WINDOW)
        manifest = (await two.history(OTHER)).manifest
        assert manifest is not None
        assert manifest.state == "cancelled"
        revive(one)


@in_virtual_time
async def test_a_session_that_comes_back_is_no_orphan(tmp_path: Path) -> None:
    async with tasks(tmp_path) as (one, two):
        first = await one.speaker()
        await first.say(sound(0, SECOND))
        await asyncio.sleep(20)
        kill(one)
        await asyncio.sleep(60)
        second = await two.speaker(first.resume_ticket)
        await stay(second, 3 * WINDOW)
        assert two.manager.owned(REF) is second.session
        # The dead one's record is not needed to find the session any more.
        assert [found.task for found in (await records(two.inner)).values()] == ["task-1"]
        revive(one)


@in_virtual_time
async def test_one_that_is_reopened_and_lost_again_is_found_again(tmp_path: Path) -> None:
    async with tasks(tmp_path, together=3) as (one, two, three):
        first = await one.speaker()
        await first.say(sound(0, SECOND))
        await asyncio.sleep(20)
        kill(one)
        await asyncio.sleep(1.6 * WINDOW)
        assert (await three.history()).finished
        second = await two.speaker(first.resume_ticket)
        await second.say(sound(SECOND, 2 * SECOND))
        await asyncio.sleep(20)
        kill(two)
        await asyncio.sleep(1.6 * WINDOW)
        manifest = (await three.history()).manifest
        assert manifest is not None
        assert manifest.samples == 2 * SECOND
        revive(one)
        revive(two)


# The end --------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_who_goes_in_order_leaves_what_is_not_finished_to_the_others(tmp_path: Path) -> None:
    async with disk(tmp_path) as inner:
        for ref in (REF, OTHER):
            await Scribe(inner, ref).session()
        log, rows = MemoryLog(), Rows()
        one, two = (World(inner, task=f"task-{n}", log=log, rows=rows, limits=LIMITS) for n in (1, 2))
        async with two.running():
            async with one.running():
                gone = await one.speaker()
                await gone.say(sound(0, SECOND))
                stays = await one.speaker(one.ticket(10, OTHER))
                await stays.say(sound(0, SECOND))
                gone.drop()
                async with asyncio.TaskGroup() as group:
                    group.create_task(one.manager.drain())
                    assert await stays.until_closed() == 1012
                    back = await two.speaker(stays.resume_ticket)
                    await asyncio.sleep(25)
            left = await record(inner, "task-1")
            assert left is not None
            assert (left.sessions, left.watched) == ([], [name_of(REF)])
            await stay(back, 2 * WINDOW)
            assert (await two.history()).finished
            assert two.manager.owned(OTHER) is back.session
            assert [found.task for found in (await records(inner)).values()] == ["task-2"]
            back.text(type="stop")
            await back.until("completed")
    assert not list((tmp_path / "_tasks").glob("task*"))


@in_virtual_time
async def test_an_archive_that_is_away_does_not_hold_up_the_end(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    async with tasks(tmp_path, together=1) as (world,):
        world.manager.orphans.watch(REF, 1000)
        await asyncio.sleep(5)

        async def away(verb: str, key: str) -> None:
            await asyncio.sleep(100)

        world.store.after = away
        begun = loop.time()
    assert loop.time() - begun < 15
